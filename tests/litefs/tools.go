//go:build tools

package tools

import _ "github.com/superfly/litefs/cmd/litefs"
