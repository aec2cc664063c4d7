#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/span.h"

static const struct error_kind kinds[] = {
    {E_OK, "OK", 200, 0, "", false},
    {E_CANCELLED, "CANCELLED", 499, 1, "cancelled_error", false},
    {E_UNKNOWN, "UNKNOWN", 502, 2, "server_error", false},
    {E_INVALID, "INVALID_ARGUMENT", 400, 3, "invalid_request_error", false},
    {E_DEADLINE, "DEADLINE_EXCEEDED", 504, 4, "timeout_error", true},
    {E_NOT_FOUND, "NOT_FOUND", 404, 5, "invalid_request_error", false},
    {E_EXISTS, "ALREADY_EXISTS", 409, 6, "invalid_request_error", false},
    {E_DENIED, "PERMISSION_DENIED", 403, 7, "permission_error", false},
    {E_FULL, "RESOURCE_EXHAUSTED", 429, 8, "rate_limit_error", true},
    {E_STATE, "FAILED_PRECONDITION", 409, 9, "invalid_request_error", false},
    {E_ABORTED, "ABORTED", 409, 10, "conflict_error", true},
    {E_RANGE, "OUT_OF_RANGE", 400, 11, "invalid_request_error", false},
    {E_UNSUPPORTED, "UNIMPLEMENTED", 400, 12, "invalid_request_error", false},
    {E_INTERNAL, "INTERNAL", 500, 13, "server_error", false},
    {E_UNAVAILABLE, "UNAVAILABLE", 503, 14, "server_error", true},
    {E_DATA_LOSS, "DATA_LOSS", 500, 15, "server_error", false},
    {E_UNAUTHENTICATED, "UNAUTHENTICATED", 401, 16, "authentication_error", false},
    {E_NOMEM, "OUT_OF_MEMORY", 503, 8, "server_error", true},
    {E_IO, "IO", 503, 14, "server_error", true},
    {E_AGAIN, "AGAIN", 503, 14, "server_error", true},
    {E_TOO_LARGE, "TOO_LARGE", 413, 8, "invalid_request_error", false},
    {E_NO_SPACE, "NO_SPACE", 507, 8, "server_error", true},
};
_Static_assert(sizeof kinds / sizeof kinds[0] == -E_CODE_MIN + 1, "one row per code, in order");

const struct error_kind *error_kind(int code) {
    if (code > 0 || code < E_CODE_MIN) code = E_INTERNAL;
    return &kinds[-code];
}

int error_from_grpc(int grpc_status) { return grpc_status >= 0 && grpc_status <= 16 ? -grpc_status : E_UNKNOWN; }

/* One line of UTF-8, whatever the input was that it quotes: what was cut in the middle of a character loses that character, any other byte that is none becomes '?'. */
static void message_tidy(char *text, size_t size) {
    text[size - 1] = 0;
    size_t len = strlen(text);
    if (len == size - 1) text[len = span_utf8_complete((struct span){text, len})] = 0;
    for (size_t i = 0, n; i < len; i += n) {
        uint32_t code;
        n = span_utf8_decode((struct span){text + i, len - i}, &code);
        if (n == 0) text[i] = '?', n = 1;
        else if (n == 1 && (code == '\n' || code == '\r')) text[i] = ' ';
    }
}

int error_vset(struct error *err, int code, const char *format, va_list args) {
    if (err) {
        err->code = code;
        err->retriable = error_kind(code)->retriable;
        err->param[0] = 0;
        vsnprintf(err->message, sizeof err->message, format, args);
        message_tidy(err->message, sizeof err->message);
    }
    return code;
}

int error_set(struct error *err, int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    error_vset(err, code, format, args);
    va_end(args);
    return code;
}

int error_set_param(struct error *err, int code, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    error_vset(err, code, format, args);
    va_end(args);
    if (err) {
        snprintf(err->param, sizeof err->param, "%s", param ? param : "");
        message_tidy(err->param, sizeof err->param);
    }
    return code;
}

int error_prefix(struct error *err, const char *format, ...) {
    if (!err) return E_INTERNAL;
    char prefix[ERROR_MESSAGE_MAX], whole[2 * ERROR_MESSAGE_MAX + 2];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    snprintf(whole, sizeof whole, "%s: %s", prefix, err->message);
    span_copy(err->message, sizeof err->message, span_str(whole));
    message_tidy(err->message, sizeof err->message);
    return err->code;
}

int error_errno(struct error *err, int errno_value, const char *format, ...) {
    int code = errno_value == ENOENT || errno_value == ENOTDIR                                ? E_NOT_FOUND
               : errno_value == ENOMEM                                                        ? E_NOMEM
               : errno_value == ENOSPC || errno_value == EDQUOT                               ? E_NO_SPACE
                                                                                              : E_IO;
    if (!err) return code;
    va_list args;
    va_start(args, format);
    error_vset(err, code, format, args);
    va_end(args);
    char text[128], whole[ERROR_MESSAGE_MAX + sizeof text + 2];
    snprintf(whole, sizeof whole, "%s: %s", err->message, strerror_r(errno_value, text, sizeof text));
    span_copy(err->message, sizeof err->message, span_str(whole));
    message_tidy(err->message, sizeof err->message);
    return code;
}

void error_assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
