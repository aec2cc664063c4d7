/* The door for clients: HTTP/1.1 and HTTP/2 on gateway.listen, plain or with TLS, with the limits of the configuration. */
#ifndef GATEWAY_DOOR_H
#define GATEWAY_DOOR_H

#include "gateway.h"

/* Sets g->http and g->tls. */
int door_open(struct gateway *g, struct error *err);
void door_close(struct gateway *g);

#endif
