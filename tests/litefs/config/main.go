// What LiteFS makes of a litefs.yml, as JSON: one line for each file named. The Makefile builds it together with
// LiteFS' own config.go (package main, so it cannot be imported), and test_litefs_config.py compares litefwd's reading.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

type reading struct {
	OK           bool   `json:"ok"`
	Error        string `json:"error,omitempty"`
	FUSEDir      string `json:"fuse_dir"`
	DataDir      string `json:"data_dir"`
	HTTPAddr     string `json:"http_addr"`
	LeaseType    string `json:"lease_type"`
	Hostname     string `json:"lease_hostname"`
	AdvertiseURL string `json:"lease_advertise_url"`
	Candidate    bool   `json:"lease_candidate"`
	ConsulURL    string `json:"lease_consul_url"`
	ConsulKey    string `json:"lease_consul_key"`
}

func read(path string, expand bool) reading {
	config := NewConfig()
	if err := ParseConfigPath(context.Background(), path, expand, &config); err != nil {
		return reading{Error: err.Error()}
	}
	return reading{
		OK:           true,
		FUSEDir:      config.FUSE.Dir,
		DataDir:      config.Data.Dir,
		HTTPAddr:     config.HTTP.Addr,
		LeaseType:    config.Lease.Type,
		Hostname:     config.Lease.Hostname,
		AdvertiseURL: config.Lease.AdvertiseURL,
		Candidate:    config.Lease.Candidate,
		ConsulURL:    config.Lease.Consul.URL,
		ConsulKey:    config.Lease.Consul.Key,
	}
}

func main() {
	// `litefs mount` does this before it reads its configuration.
	if name, err := os.Hostname(); err == nil && os.Getenv("HOSTNAME") == "" {
		os.Setenv("HOSTNAME", name)
	}
	expand, out := true, json.NewEncoder(os.Stdout)
	for _, arg := range os.Args[1:] {
		if arg == "-no-expand-env" {
			expand = false
		} else if err := out.Encode(read(arg, expand)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
