/*
 * TLS for the server (OpenSSL inside): the certificate and key that a door shows, read from PEM files and read again when they change, so that a renewal needs no
 * restart. TLS 1.2 and 1.3, forward secrecy and authenticated ciphers only, ALPN h2 and http/1.1, resumption by tickets (no server-side cache),
 * no renegotiation, no compression. With client_ca a client must show a certificate that these authorities have signed (mutual TLS).
 *
 * The files are looked at every HTTP_TLS_LOOK_MS on a worker. What cannot be used (half a renewal, a key that does not match) leaves what was before in force, and is told once.
 * Connections go on with what they began with. Tickets do not outlive a reload: who is no longer trusted cannot resume.
 */
#ifndef GENLOOP_HTTP_TLS_H
#define GENLOOP_HTTP_TLS_H

#include "base/buf.h"
#include "base/loop.h"

struct http_tls;

enum { HTTP_TLS_LOOK_MS = 2000 };

struct http_tls_files {
    const char *certificate; /* the chain, the server's own first */
    const char *key;
    const char *client_ca;   /* NULL or "": clients need no certificate */
};

/* files: copied. on_reload(arg, 0, NULL) after a reload, (arg, r, err) where the new files cannot be used. Returns owned, NULL and err (naming the file). */
struct http_tls *http_tls_open(struct loop *l, const struct http_tls_files *files, void *arg, void (*on_reload)(void *arg, int r, const struct error *err), struct error *err);
void http_tls_close(struct http_tls *t); /* connections that are open go on; NULL is accepted */

/* ---- One connection: bytes in, bytes out; only transport.c and tests use this ----------------------------------------------- */

struct tls;
struct tls *tls_new(struct http_tls *t); /* returns owned, NULL without memory */
void tls_free(struct tls *s);
/* What came from the client: borrowed until tls_read has said E_AGAIN. */
void tls_feed(struct tls *s, struct span data);
/* Goes on with the handshake, then decrypts: 0 and *got bytes in room; E_AGAIN all input was taken; E_CANCELLED the client has said its end; E_IO it does not
 * speak TLS as it should. What is to be sent is in tls_out after each call. */
int tls_read(struct tls *s, char *room, size_t size, size_t *got);
/* Encrypts all of it into tls_out: 0, E_STATE before the handshake, E_IO, E_NOMEM. */
int tls_write(struct tls *s, struct span data);
size_t tls_expansion(size_t len); /* the most that len bytes become */
void tls_end(struct tls *s);      /* says our end (close_notify) into tls_out */
struct buf *tls_out(struct tls *s);
bool tls_ready(const struct tls *s); /* the handshake is done */
bool tls_resumed(const struct tls *s);
struct span tls_protocol(const struct tls *s); /* by ALPN; empty: none was agreed on */

#endif
