/*
 * The console's files, inside of the executable: console/embed.c writes this table at build time from the files of console/, each as it is and compressed. Constant data; any thread.
 */
#ifndef CONSOLE_ASSET_H
#define CONSOLE_ASSET_H

#include <stddef.h>

struct console_asset {
    const char *name;                  /* "index.html": of the page at /; of the others behind /console/ */
    const char *type;                  /* Content-Type */
    const char *etag, *gzip_etag;      /* strong, quoted: each coding has its own (RFC 9110, 8.8.3.3) */
    const unsigned char *plain, *gzip; /* gzip NULL: it would be no smaller */
    size_t plain_size, gzip_size;
};
extern const struct console_asset CONSOLE_ASSETS[];
extern const size_t CONSOLE_ASSETS_COUNT;

#endif
