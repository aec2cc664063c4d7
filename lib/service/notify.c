#include "service/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"

int notify(const char *format, ...) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    char message[NOTIFY_MESSAGE_MAX];
    size_t len = path ? strlen(path) : 0;
    va_list args;
    if (len == 0 || len >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@')) return E_NOT_FOUND;
    memcpy(to.sun_path, path, len);
    if (path[0] == '@') to.sun_path[0] = '\0'; /* an abstract one */
    va_start(args, format);
    int n = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof message) return E_TOO_LARGE;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return E_AGAIN;
    int r = 0;
    if (sendto(fd, message, (size_t)n, MSG_NOSIGNAL, (const struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0) r = errno == EAGAIN || errno == ENOBUFS ? E_AGAIN : E_NOT_FOUND;
    (void)close(fd);
    return r;
}
