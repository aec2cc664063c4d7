/*
 * What a service tells whoever started it: systemd's protocol (sd_notify(3)), a datagram of KEY=VALUE lines to $NOTIFY_SOCKET. The supervisor of a one-machine platform listens there, and
 * systemd does for a unit of Type=notify. Beside systemd's own keys, with X_ as its manual asks:
 *   X_GENLOOP_ADMIN=HOST:PORT   where /livez, /readyz and /metrics are
 *   X_GENLOOP_READY=0|1         as /readyz says it: systemd's READY=1 cannot be taken back
 */
#ifndef GENLOOP_SERVICE_NOTIFY_H
#define GENLOOP_SERVICE_NOTIFY_H

enum { NOTIFY_MESSAGE_MAX = 1024 };
/* 0: sent. E_AGAIN: the listener has not read what it has yet; to be said again later, nobody's work may wait for it. E_NOT_FOUND: nobody listens. Any thread. */
int notify(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
