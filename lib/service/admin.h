/* The admin door of a service: /livez, /readyz, /metrics over HTTP. */
#ifndef GENLOOP_SERVICE_ADMIN_H
#define GENLOOP_SERVICE_ADMIN_H

#include "service/service.h"

struct admin;
struct http_exchange;
/* Answers /livez, /readyz and /metrics; false, and nothing done, for another path. */
bool admin_answer(struct service *s, struct http_exchange *x);
int admin_open(struct service *s, const char *address, struct admin **a, struct error *err);
const char *admin_address(const struct admin *a); /* host:port, with what port 0 became */
void admin_close(struct admin *a);

#endif
