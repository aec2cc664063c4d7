#include "services/ingest/personal.h"

static const char *const kind_words[PERSONAL_COUNT] = {"<EMAIL>", "<PHONE>", "<IP>", "<CARD>", "<IBAN>", "<SSN>"};
const char *personal_word(enum personal p) { return kind_words[p]; }

static bool digit(char c) { return c >= '0' && c <= '9'; }
static bool upper(char c) { return c >= 'A' && c <= 'Z'; }
static bool letter(char c) { return upper(c) || (c >= 'a' && c <= 'z'); }
static bool alnum(char c) { return digit(c) || letter(c); }
static bool hex(char c) { return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static char at(struct span s, size_t i) { return i < s.len ? s.data[i] : 0; }

/* ---- e-mail: from the @ outwards (RFC 5321's lengths bound both looks) ---- */

enum { LOCAL_MAX = 64, DOMAIN_MAX = 253 };

static bool local_char(char c) { return alnum(c) || strchr(".!#$%&'*+-/=?^_{|}~", c); }

static bool harmless_domain(struct span d) {
    static const char *const names[] = {"example.com", "example.org", "example.net", "example.edu", "localhost.localdomain", "openssh.com", "libssh.org"};
    static const char *const ends[] = {".example", ".invalid", ".test", ".localhost", ".local", ".example.com", ".example.org", ".example.net",
                                       ".service", ".socket", ".target", ".timer", ".mount", ".automount", ".swap", ".slice", ".scope", ".path", ".device", ".conf", ".so", ".html", ".png", ".git"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (span_eq_nocase(d, span_str(names[i]))) return true;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (d.len > n && span_eq_nocase(span_skip(d, d.len - n), span_str(ends[i]))) return true;
    }
    return false;
}

/* s.data[i] is '@'; floor: nothing before it may be taken. */
static bool email(struct span s, size_t i, size_t floor, size_t *from, size_t *to) {
    size_t a = i;
    while (a > floor && i - a < LOCAL_MAX && local_char(s.data[a - 1])) a--;
    while (a < i && !alnum(s.data[a]) && s.data[a] != '_') a++; /* what stands before it: quotation, mailto's slashes */
    if (a == i || s.data[i - 1] == '.') return false;
    size_t b = i + 1, last_dot = 0;
    while (b < s.len && b - i <= DOMAIN_MAX && (alnum(s.data[b]) || s.data[b] == '-' || s.data[b] == '.')) {
        if (s.data[b] == '.') {
            if (b + 1 >= s.len || !alnum(s.data[b + 1])) break; /* a full stop */
            last_dot = b;
        }
        b++;
    }
    if (!last_dot || b - last_dot < 3 || !letter(s.data[last_dot + 1]) || at(s, b) == '@') return false;
    for (size_t k = last_dot + 1; k < b; k++)
        if (!letter(s.data[k]) && s.data[k] != '-') return false;
    if (!alnum(s.data[i + 1]) || harmless_domain(span_sub(s, i + 1, b - i - 1))) return false;
    /* "git@github.com:…" names a server */
    if (span_eq_str(span_sub(s, a, i - a), "git") && at(s, b) == ':') return false;
    *from = a;
    *to = b;
    return true;
}

/* ---- numbers ---- */

static size_t ipv4(struct span s, size_t i) {
    unsigned octets[4];
    size_t k = i;
    for (int n = 0; n < 4; n++) {
        unsigned v = 0;
        size_t from = k;
        while (k < s.len && k - from < 3 && digit(s.data[k])) v = v * 10 + (unsigned)(s.data[k++] - '0');
        if (k == from || v > 255 || (k - from > 1 && s.data[from] == '0')) return 0;
        octets[n] = v;
        if (n < 3 && at(s, k++) != '.') return 0;
    }
    if (digit(at(s, k)) || letter(at(s, k)) || (at(s, k) == '.' && digit(at(s, k + 1))) || at(s, k) == '-' || at(s, k) == '_') return 0;
    bool harmless = octets[0] == 0 || octets[0] == 127 || octets[0] == 10 || octets[0] >= 224 || (octets[0] == 192 && octets[1] == 168) ||
                    (octets[0] == 172 && octets[1] >= 16 && octets[1] < 32) || (octets[0] == 169 && octets[1] == 254) || (octets[0] == 192 && octets[1] == 0) ||
                    (octets[0] == 198 && (octets[1] == 51 || octets[1] == 18 || octets[1] == 19)) || (octets[0] == 203 && octets[1] == 0 && octets[2] == 113) ||
                    octets[0] == octets[1] || (octets[1] == 0 && octets[2] == 0) || (octets[0] == 1 && octets[1] == 2 && octets[2] == 3) || octets[0] < 10; /* 1.2.3.4 and versions */
    return harmless ? 0 : k - i;
}

/* Groups of hex digits with colons: eight, or fewer around one "::". Ours only where it has three groups and a digit. */
static size_t ipv6(struct span s, size_t i) {
    enum { ADDRESS_MAX = 45 };
    int groups = 0, gaps = 0;
    bool digits = false;
    size_t k = i;
    while (k < s.len && k - i < ADDRESS_MAX) {
        size_t from = k;
        while (k < s.len && k - from < 5 && hex(s.data[k])) digits |= digit(s.data[k++]);
        if (k - from > 4) return 0;
        if (k > from) groups++;
        if (at(s, k) != ':') break;
        if (at(s, k + 1) == ':') {
            if (++gaps > 1) return 0;
            k += 2;
            if (!hex(at(s, k))) break;
        } else if (hex(at(s, k + 1)) && k > from) k++;
        else break;
    }
    if (alnum(at(s, k)) || at(s, k) == ':' || !digits) return 0;
    if (!(groups == 8 && !gaps) && !(gaps && groups >= 3 && groups < 8)) return 0;
    struct span a = span_sub(s, i, k - i);
    if (span_eq_nocase(span_sub(a, 0, 9), SPAN("2001:db8:")) || span_eq_nocase(span_sub(a, 0, 10), SPAN("2001:0db8:")) || span_eq_nocase(span_sub(a, 0, 4), SPAN("fe80")) ||
        (a.len > 2 && (a.data[0] == 'f' || a.data[0] == 'F') && (a.data[1] == 'c' || a.data[1] == 'd' || a.data[1] == 'C' || a.data[1] == 'D' || a.data[1] == 'f' || a.data[1] == 'F'))) return 0;
    return k - i;
}

/* Digits with single spaces or dashes between them, from a digit on: how many digits, and where each group ends. */
struct run {
    char digits[32];
    int n, groups[12], n_groups;
    size_t len;
    char separator; /* between all groups, 0 where there is one group, '?' where they differ */
};

static void read_run(struct span s, size_t i, struct run *r) {
    *r = (struct run){0};
    size_t k = i, from = i;
    while (k < s.len && r->n < 31) {
        if (digit(s.data[k])) {
            r->digits[r->n++] = s.data[k++];
            r->len = k - i;
            continue;
        }
        char c = s.data[k];
        if ((c != ' ' && c != '-') || !digit(at(s, k + 1)) || r->n_groups == 11) break;
        r->groups[r->n_groups++] = (int)(k - from);
        r->separator = !r->separator || r->separator == c ? c : '?';
        from = ++k;
    }
    r->groups[r->n_groups++] = (int)(i + r->len - from);
    if (r->n_groups == 1) r->separator = 0;
}

static bool luhn(const char *digits, int n) {
    int sum = 0;
    for (int i = 0; i < n; i++) {
        int v = digits[n - 1 - i] - '0';
        if (i % 2) v = v * 2 > 9 ? v * 2 - 9 : v * 2;
        sum += v;
    }
    return sum % 10 == 0;
}

static bool card(const struct run *r) {
    int n = r->n;
    const char *d = r->digits;
    if (n < 13 || n > 19) return false;
    int two = (d[0] - '0') * 10 + d[1] - '0', four = two * 100 + (d[2] - '0') * 10 + d[3] - '0';
    bool brand = (d[0] == '4' && (n == 13 || n == 16 || n == 19)) || (n == 16 && ((two >= 51 && two <= 55) || (four >= 2221 && four <= 2720))) || (n == 15 && (two == 34 || two == 37)) ||
                 (n == 16 && (four == 6011 || two == 65 || (four >= 6440 && four <= 6499))) || (n == 16 && four >= 3528 && four <= 3589) || (n == 14 && (two == 36 || two == 38 || (four / 10 >= 300 && four / 10 <= 305)));
    if (!brand || r->separator == '?') return false;
    if (r->n_groups > 1) { /* as printed: 4-4-4-4, 4-6-5, 4-6-4 */
        if (r->groups[0] != 4) return false;
        if (n == 16 && !(r->n_groups == 4 && r->groups[1] == 4 && r->groups[2] == 4)) return false;
        if (n < 16 && r->n_groups != 3 && !(n == 13 && r->n_groups == 4)) return false;
    }
    for (int i = 1; i < n; i++)
        if (d[i] != d[0]) return luhn(d, n);
    return false;
}

static bool ssn(const struct run *r) {
    if (r->n != 9 || r->n_groups != 3 || r->separator != '-' || r->groups[0] != 3 || r->groups[1] != 2) return false;
    const char *d = r->digits;
    return d[0] != '9' && strncmp(d, "000", 3) && strncmp(d, "666", 3) && strncmp(d + 3, "00", 2) && strncmp(d + 5, "0000", 4);
}

/* ddd-ddd-dddd, (ddd) ddd-dddd */
static bool phone_us(const struct run *r) {
    return r->n == 10 && r->n_groups == 3 && r->separator == '-' && r->groups[0] == 3 && r->groups[1] == 3 && r->digits[0] >= '2' && r->digits[3] >= '2';
}

/* +CC and 8 to 15 digits in all, with at most one separator or bracket between two. */
static size_t phone_plus(struct span s, size_t i) {
    enum { PHONE_MAX = 32 };
    size_t k = i + 1, end = 0;
    int digits = 0, separators = 0, brackets = 0;
    if (at(s, k) < '1' || at(s, k) > '9') return 0;
    while (k < s.len && k - i < PHONE_MAX) {
        char c = s.data[k];
        if (digit(c)) {
            digits++;
            separators = 0;
            end = ++k;
        } else if (c == ' ' || c == '-' || c == '.' || c == '/' || (c == '(' && brackets++ < 1) || (c == ')' && brackets == 1)) {
            if (++separators > 2) break;
            k++;
        } else
            break;
    }
    /* "+12345678" without a separator may be a number: nine digits at least then */
    bool parted = memchr(s.data + i, ' ', end > i ? end - i : 0) || memchr(s.data + i, '-', end > i ? end - i : 0);
    return digits >= (parted ? 8 : 10) && digits <= 15 && !letter(at(s, end)) ? end - i : 0;
}

static size_t phone_brackets(struct span s, size_t i) {
    if (i + 13 > s.len) return 0;
    const char *p = s.data + i;
    if (!digit(p[1]) || p[1] < '2' || !digit(p[2]) || !digit(p[3]) || p[4] != ')') return 0;
    size_t k = i + 5;
    if (at(s, k) == ' ') k++;
    for (int n = 0; n < 3; n++)
        if (!digit(at(s, k++))) return 0;
    if (at(s, k) != '-' && at(s, k) != ' ' && at(s, k) != '.') return 0;
    k++;
    for (int n = 0; n < 4; n++)
        if (!digit(at(s, k++))) return 0;
    return digit(at(s, k)) ? 0 : k - i;
}

/* ---- IBAN ---- */

static const struct {
    char country[3];
    unsigned char len;
} ibans[] = {{"AD", 24}, {"AE", 23}, {"AL", 28}, {"AT", 20}, {"AZ", 28}, {"BA", 20}, {"BE", 16}, {"BG", 22}, {"BH", 22}, {"BR", 29}, {"CH", 21}, {"CR", 22}, {"CY", 28}, {"CZ", 24},
             {"DE", 22}, {"DK", 18}, {"DO", 28}, {"EE", 20}, {"EG", 29}, {"ES", 24}, {"FI", 18}, {"FO", 18}, {"FR", 27}, {"GB", 22}, {"GE", 22}, {"GI", 23}, {"GL", 18}, {"GR", 27},
             {"HR", 21}, {"HU", 28}, {"IE", 22}, {"IL", 23}, {"IS", 26}, {"IT", 27}, {"JO", 30}, {"KW", 30}, {"KZ", 20}, {"LB", 28}, {"LI", 21}, {"LT", 20}, {"LU", 20}, {"LV", 21},
             {"MC", 27}, {"MD", 24}, {"ME", 22}, {"MK", 19}, {"MR", 27}, {"MT", 31}, {"MU", 30}, {"NL", 18}, {"NO", 15}, {"PK", 24}, {"PL", 28}, {"PS", 29}, {"PT", 25}, {"QA", 29},
             {"RO", 24}, {"RS", 22}, {"SA", 24}, {"SE", 24}, {"SI", 19}, {"SK", 24}, {"SM", 27}, {"TN", 24}, {"TR", 26}, {"UA", 29}, {"VA", 22}, {"VG", 24}, {"XK", 20}};

static size_t iban(struct span s, size_t i) {
    size_t want = 0;
    for (size_t k = 0; k < sizeof ibans / sizeof *ibans; k++)
        if (s.data[i] == ibans[k].country[0] && at(s, i + 1) == ibans[k].country[1]) want = ibans[k].len;
    if (!want || !digit(at(s, i + 2)) || !digit(at(s, i + 3))) return 0;
    char text[34];
    size_t n = 0, k = i;
    while (n < want && k < s.len) {
        char c = s.data[k];
        if (c == ' ' && n && n % 4 == 0 && alnum(at(s, k + 1))) {
            k++;
            continue;
        }
        if (!digit(c) && !upper(c)) return 0;
        text[n++] = c;
        k++;
    }
    if (n != want || alnum(at(s, k))) return 0;
    unsigned rest = 0;
    for (size_t j = 0; j < n; j++) {
        char c = text[(j + 4) % n];
        rest = digit(c) ? (rest * 10 + (unsigned)(c - '0')) % 97 : (rest * 100 + (unsigned)(c - 'A' + 10)) % 97;
    }
    return rest == 1 ? k - i : 0;
}

/* ---- the pass ---- */

void personal_redact(struct span s, struct buf *out, uint64_t counts[PERSONAL_COUNT]) {
    size_t done = 0; /* written up to here */
    static const unsigned char trigger[256] = {['@'] = 1, ['+'] = 2, ['('] = 2, ['0'] = 3, ['1'] = 3, ['2'] = 3, ['3'] = 3, ['4'] = 3, ['5'] = 3, ['6'] = 3, ['7'] = 3,
                                               ['8'] = 3, ['9'] = 3, [':'] = 4};
    for (size_t i = 0; i < s.len; i++) {
        unsigned char kind = trigger[(unsigned char)s.data[i]];
        if (!kind) continue;
        size_t from = i, to = i;
        enum personal p = PERSONAL_COUNT;
        char before = i > done ? s.data[i - 1] : ' ';
        if (kind == 1) {
            if (email(s, i, done, &from, &to)) p = PERSONAL_EMAIL;
        } else if (kind == 2) {
            if (s.data[i] == '+' && !alnum(before) && (to = i + phone_plus(s, i)) > i) p = PERSONAL_PHONE;
            if (s.data[i] == '(' && !alnum(before) && (to = i + phone_brackets(s, i)) > i) p = PERSONAL_PHONE;
        } else if (kind == 3) {
            bool begins = !alnum(before) && before != '.' && before != '-' && before != '_' && before != '/' && before != '=';
            /* DE89 3704…: the country stands before the first digit */
            if (upper(before) && i >= done + 2 && upper(s.data[i - 2]) && !(i >= done + 3 && alnum(s.data[i - 3])) && digit(at(s, i + 1))) {
                size_t n = iban(s, i - 2);
                if (n) {
                    from = i - 2;
                    to = from + n;
                    p = PERSONAL_IBAN;
                }
            }
            if (p == PERSONAL_COUNT && begins) {
                size_t n;
                struct run r;
                if ((n = ipv4(s, i))) p = PERSONAL_IP, to = i + n;
                else if ((n = ipv6(s, i))) p = PERSONAL_IP, to = i + n;
                else {
                    read_run(s, i, &r);
                    char after = at(s, i + r.len);
                    bool ends = !alnum(after) && after != '_' && !(after == '.' && digit(at(s, i + r.len + 1))) && after != '-';
                    if (ends && card(&r)) p = PERSONAL_CARD;
                    else if (ends && ssn(&r)) p = PERSONAL_SSN;
                    else if (ends && phone_us(&r)) p = PERSONAL_PHONE;
                    to = i + r.len;
                }
            }
            if (p == PERSONAL_COUNT) { /* the rest of this number was looked at */
                while (i + 1 < s.len && digit(s.data[i + 1])) i++;
                continue;
            }
        } else { /* the first colon of an address that begins with letters: "fd…", "a0…" */
            size_t a = i;
            while (a > done && i - a < 4 && hex(s.data[a - 1])) a--;
            char edge = a > done ? s.data[a - 1] : ' ';
            if (a < i && letter(s.data[a]) && !alnum(edge) && edge != ':' && edge != '_') {
                size_t n = ipv6(s, a);
                if (n) {
                    from = a;
                    to = a + n;
                    p = PERSONAL_IP;
                }
            }
        }
        if (p == PERSONAL_COUNT) continue;
        buf_append(out, s.data + done, from - done);
        buf_append_str(out, kind_words[p]);
        counts[p]++;
        done = to;
        i = to - 1;
    }
    buf_append(out, s.data + done, s.len - done);
}
