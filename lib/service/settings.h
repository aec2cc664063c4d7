/* The settings that all services share: their rows, what they mean when empty, and the layout of the home that they name. Blocking; at start only. */
#ifndef GENLOOP_SERVICE_SETTINGS_H
#define GENLOOP_SERVICE_SETTINGS_H

#include "service/service.h"

extern const struct config_row SERVICE_ROWS[];
extern const size_t SERVICE_ROWS_COUNT;
extern const char *const SERVICE_SECTIONS[]; /* of every service: one file configures all */

/* The shared rows and the service's, in one array. Returns owned, NULL without memory. */
struct config_row *settings_rows(const struct config_row *rows, size_t n_rows, size_t *n);
/* Fills in what is empty: home from $HOME, and from it log, store, redis, bus; the instance from the service. E_INVALID for an instance that is no name. */
int settings_resolve(struct service_settings *s, const char *service, struct error *err);
/* What the others are told of an address that is listened at: with the advertised host, where there is one and the address is no path. */
int settings_advertised(const struct service_settings *s, const char *address, char *out, size_t out_size, struct error *err);
/* Makes the folders of the home and its keys, and checks its format. */
int settings_make_home(const struct service_settings *s, struct bus_keys *keys, struct error *err);

#endif
