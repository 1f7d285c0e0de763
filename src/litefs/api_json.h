/*
 * api_json: LiteFS' JSON answers, decoded. What cannot be LiteFS' is -EPROTO.
 * Pure; threads: any. Outputs are unchanged on error; -ENOMEM is the only other one.
 */
#ifndef LITEFWD_LITEFS_API_JSON_H
#define LITEFWD_LITEFS_API_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "litefs/api.h"

/* All fields but server_id. */
int api_json_info(const char *text, size_t len, struct api_info *ret);

/* The answer of POST /halt: id, pos, and "expires" as ms since 1970 (0 where it cannot be told). */
int api_json_halt(const char *text, size_t len, uint64_t *ret_id, struct pos *ret_pos, int64_t *ret_expires_ms);

/* -ENOENT: the node has no database of that name. */
int api_json_vars(const char *text, size_t len, const char *name, struct api_debug_db *ret);

/* RFC 3339 ("2006-01-02T15:04:05.999999999Z07:00"), fractions cut to ms: 0 or -EPROTO. */
int api_json_time(const char *text, int64_t *ret_ms);

#endif
