/*
 * Run at build time: writes the files that it is given as the table of console/asset.h.
 *
 *     console_embed OUT.c FILE...
 *
 * The same files give the same bytes: nothing of the machine or the hour goes into the archive's head.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/sha256.h"

enum { FILE_BYTES_MAX = 1 << 20 }; /* a page that needs more has something in it that does not belong there */

static const struct {
    const char *ending, *type;
} TYPES[] = {
    {".html", "text/html; charset=utf-8"}, {".css", "text/css; charset=utf-8"}, {".js", "text/javascript; charset=utf-8"}, {".svg", "image/svg+xml"},
};

static const char *type_of(const char *name) {
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (span_ends(span_str(name), span_str(TYPES[i].ending))) return TYPES[i].type;
    return NULL;
}

static bool compress_gzip(struct span plain, struct buf *out) {
    z_stream z = {0};
    char piece[65536];
    int r;
    if (deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY) != Z_OK) return false;
    z.next_in = (Bytef *)(uintptr_t)plain.data;
    z.avail_in = (uInt)plain.len;
    do {
        z.next_out = (Bytef *)piece;
        z.avail_out = sizeof piece;
        r = deflate(&z, Z_FINISH);
        buf_append(out, piece, sizeof piece - z.avail_out);
    } while (r == Z_OK || r == Z_BUF_ERROR);
    (void)deflateEnd(&z);
    return r == Z_STREAM_END && !out->failed;
}

static void write_bytes(FILE *f, const char *kind, int i, struct span bytes) {
    fprintf(f, "static const unsigned char %s_%d[] = {", kind, i);
    for (size_t k = 0; k < bytes.len; k++) fprintf(f, "%s%u,", k % 32 ? "" : "\n", (unsigned)(unsigned char)bytes.data[k]);
    fprintf(f, "};\n");
}

static int fail(const char *path, const char *why) {
    fprintf(stderr, "console_embed: %s: %s\n", path, why);
    return 1;
}

int main(int argc, char **argv) {
    struct buf rows;
    FILE *f = argc > 2 ? fopen(argv[1], "we") : NULL;
    if (!f) return fail(argc > 1 ? argv[1] : "arguments", argc > 2 ? "cannot be written" : "OUT.c FILE... are needed");
    buf_init(&rows, FILE_BYTES_MAX);
    fprintf(f, "/* Written by console/embed.c at build time. */\n#include \"console/asset.h\"\n\n");
    for (int i = 2; i < argc; i++) {
        const char *slash = strrchr(argv[i], '/'), *name = slash ? slash + 1 : argv[i], *type = type_of(name);
        struct buf plain, gzip;
        struct error err = {0};
        char digest[SHA256_HEX_MAX];
        buf_init(&plain, FILE_BYTES_MAX);
        buf_init(&gzip, FILE_BYTES_MAX + 4096);
        if (!type) return fail(argv[i], "the console has no files of this kind: see TYPES in console/embed.c");
        if (file_read(argv[i], &plain, &err) < 0) return fail(argv[i], err.message);
        if (plain.len == 0) return fail(argv[i], "it is empty");
        if (!compress_gzip(buf_span(&plain), &gzip)) return fail(argv[i], "it cannot be compressed");
        bool smaller = gzip.len < plain.len;
        sha256_hex(buf_span(&plain), digest);
        write_bytes(f, "plain", i, buf_span(&plain));
        if (smaller) write_bytes(f, "gzip", i, buf_span(&gzip));
        buf_printf(&rows, "    {\"%s\", \"%s\", \"\\\"%.32s\\\"\", \"\\\"%.32s-gzip\\\"\", plain_%d, ", name, type, digest, digest, i);
        if (smaller) buf_printf(&rows, "gzip_%d, sizeof plain_%d, sizeof gzip_%d},\n", i, i, i);
        else buf_printf(&rows, "0, sizeof plain_%d, 0},\n", i);
        buf_fini(&plain);
        buf_fini(&gzip);
    }
    fprintf(f, "\nconst struct console_asset CONSOLE_ASSETS[] = {\n%.*s};\nconst size_t CONSOLE_ASSETS_COUNT = sizeof CONSOLE_ASSETS / sizeof *CONSOLE_ASSETS;\n", SPAN_ARG(buf_span(&rows)));
    bool ok = !rows.failed && !ferror(f);
    buf_fini(&rows);
    return fclose(f) == 0 && ok ? 0 : fail(argv[1], "it could not be written whole");
}
