/*
 * Errors. Every function that can fail returns `int r`: 0, or one of the negative codes below; out-parameters are untouched on
 * failure. Where a person will read the reason, the last parameter is an optional `struct error *` (NULL is accepted) with a
 * message that names the input and the remedy. One table says what each code is in HTTP, gRPC and OpenAI's error types.
 * Thread safety: plain data, the caller's.
 */
#ifndef GENLOOP_BASE_ERROR_H
#define GENLOOP_BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* Codes. Their gRPC twin is in the comment; the table in error.c maps them all. Numbers travel on the bus: never renumber. */
enum {
    E_OK = 0,
    E_CANCELLED = -1,    /* CANCELLED: the caller went away */
    E_UNKNOWN = -2,      /* UNKNOWN: what a peer said makes no sense to us */
    E_INVALID = -3,      /* INVALID_ARGUMENT: the input is wrong, and will be wrong the next time */
    E_DEADLINE = -4,     /* DEADLINE_EXCEEDED */
    E_NOT_FOUND = -5,    /* NOT_FOUND */
    E_EXISTS = -6,       /* ALREADY_EXISTS */
    E_DENIED = -7,       /* PERMISSION_DENIED */
    E_FULL = -8,         /* RESOURCE_EXHAUSTED: a cap or a queue is full; later it may work */
    E_STATE = -9,        /* FAILED_PRECONDITION: not in the state that this needs */
    E_ABORTED = -10,     /* ABORTED: lost a race (a fencing epoch, a version) */
    E_RANGE = -11,       /* OUT_OF_RANGE */
    E_UNSUPPORTED = -12, /* UNIMPLEMENTED: known, but not built */
    E_INTERNAL = -13,    /* INTERNAL: our fault */
    E_UNAVAILABLE = -14, /* UNAVAILABLE: try again */
    E_DATA_LOSS = -15,   /* DATA_LOSS: what was stored does not match its digest */
    E_UNAUTHENTICATED = -16, /* UNAUTHENTICATED */
    E_NOMEM = -17,       /* RESOURCE_EXHAUSTED: no memory */
    E_IO = -18,          /* UNAVAILABLE: the operating system said no; the message has its words */
    E_AGAIN = -19,       /* nothing there yet: not an error to show anyone */
    E_TOO_LARGE = -20,   /* RESOURCE_EXHAUSTED: above a documented size (HTTP 413) */
    E_NO_SPACE = -21,    /* RESOURCE_EXHAUSTED: the disk or the quota is full (HTTP 507) */
    E_CODE_MIN = -21,
};

enum { ERROR_MESSAGE_MAX = 512 }; /* a message is a sentence or two; longer is cut, at a character border */
enum { ERROR_PARAM_MAX = 64 };    /* a JSON path such as "messages.0.content" */

struct error {
    int code;                         /* 0 while nothing has been said */
    bool retriable;                   /* the same call may succeed later */
    char message[ERROR_MESSAGE_MAX];  /* UTF-8, one line, for the person who has to act */
    char param[ERROR_PARAM_MAX];      /* the parameter at fault, "" where none is */
};

/* Says `code` with a message; returns `code`, so that `return error_set(err, E_INVALID, "...")` reads as one line.
 * retriable follows the table. err may be NULL. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int error_vset(struct error *err, int code, const char *format, va_list args) __attribute__((format(printf, 3, 0)));
/* Like error_set and names the parameter. */
int error_set_param(struct error *err, int code, const char *param, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Puts "prefix: " before the message that is there. Returns err's code (E_INTERNAL where err is NULL). */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* From errno: E_NOT_FOUND for ENOENT, E_NOMEM, E_NO_SPACE for ENOSPC and EDQUOT, E_IO for the rest; appends strerror. */
int error_errno(struct error *err, int errno_value, const char *format, ...) __attribute__((format(printf, 3, 4)));

struct error_kind {
    int code;
    const char *name;        /* "INVALID_ARGUMENT" */
    int http_status;         /* 400 */
    int grpc_status;         /* 3 */
    const char *openai_type; /* "invalid_request_error" */
    bool retriable;
};
/* The row of a code; an unlisted code gives E_INTERNAL's. Never NULL. */
const struct error_kind *error_kind(int code);
/* The code of a gRPC status 0..16. */
int error_from_grpc(int grpc_status);

/* A broken invariant of ours: says where and aborts, in every build. Input never meets it. */
#define ASSERT(condition) ((condition) ? (void)0 : error_assert_failed(#condition, __FILE__, __LINE__))
void error_assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn, cold));

#endif
