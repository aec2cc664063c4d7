/* Certificates made in the test: an authority, and what it signs, as PEM files in a temporary folder. */
#ifndef TESTS_UNIT_HTTP_CERTIFICATES_H
#define TESTS_UNIT_HTTP_CERTIFICATES_H

struct authority;
struct authority *authority_new(const char *name);
void authority_free(struct authority *a);
void authority_write(const struct authority *a, const char *path);
/* A certificate of `name` with this serial number and its key. */
void authority_issue(const struct authority *a, const char *name, long serial, const char *certificate_path, const char *key_path);

#endif
