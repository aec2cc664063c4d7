/* The door for clients: HTTP/1.1 and HTTP/2 on gateway.listen, plain or with TLS, with the limits of the configuration. */
#ifndef GATEWAY_DOOR_H
#define GATEWAY_DOOR_H

#include "gateway.h"

int door_check(struct gateway *g, struct error *err); /* whether the settings make sense; sets g->tls */
/* Checks, where that is not done, and listens: sets g->http. */
int door_open(struct gateway *g, struct error *err);
void door_close(struct gateway *g);

#endif
