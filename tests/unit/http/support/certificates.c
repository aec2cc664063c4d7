#include "certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct authority {
    EVP_PKEY *key;
    X509 *certificate;
};

static void *must(void *p) {
    if (!p) abort();
    return p;
}

static void extension(X509 *c, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, c, NULL, NULL, 0);
    X509_EXTENSION *e = must(X509V3_EXT_conf_nid(NULL, &context, nid, value));
    X509_add_ext(c, e, -1);
    X509_EXTENSION_free(e);
}

static X509 *make(const char *name, long serial, EVP_PKEY *key, const struct authority *by) {
    X509 *c = must(X509_new());
    X509_set_version(c, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c), serial);
    X509_gmtime_adj(X509_getm_notBefore(c), -60);
    X509_gmtime_adj(X509_getm_notAfter(c), 3600);
    X509_set_pubkey(c, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(c, by ? X509_get_subject_name(by->certificate) : X509_get_subject_name(c));
    extension(c, by ? by->certificate : c, NID_basic_constraints, by ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (by) extension(c, by->certificate, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    if (!X509_sign(c, by ? by->key : key, EVP_sha256())) abort();
    return c;
}

struct authority *authority_new(const char *name) {
    struct authority *a = must(calloc(1, sizeof *a));
    a->key = must(EVP_EC_gen("P-256"));
    a->certificate = make(name, 1, a->key, NULL);
    return a;
}

void authority_free(struct authority *a) {
    X509_free(a->certificate);
    EVP_PKEY_free(a->key);
    free(a);
}

/* Whole or not at all, as a renewal should. */
static FILE *begin(const char *path, char temporary[1024]) {
    snprintf(temporary, 1024, "%s.new", path);
    return must(fopen(temporary, "w"));
}
static void end(FILE *f, const char *path, const char *temporary) {
    fclose(f);
    if (rename(temporary, path) != 0) abort();
}

void authority_write(const struct authority *a, const char *path) {
    char temporary[1024];
    FILE *f = begin(path, temporary);
    PEM_write_X509(f, a->certificate);
    end(f, path, temporary);
}

void authority_issue(const struct authority *a, const char *name, long serial, const char *certificate_path, const char *key_path) {
    char temporary[1024];
    EVP_PKEY *key = must(EVP_EC_gen("P-256"));
    X509 *c = make(name, serial, key, a);
    FILE *f = begin(certificate_path, temporary);
    PEM_write_X509(f, c);
    end(f, certificate_path, temporary);
    f = begin(key_path, temporary);
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    end(f, key_path, temporary);
    X509_free(c);
    EVP_PKEY_free(key);
}
