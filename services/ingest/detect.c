#include "services/ingest/detect.h"

static const char *const media_types[MEDIA_COUNT] = {
    [MEDIA_UNKNOWN] = "application/octet-stream", [MEDIA_TEXT] = "text/plain",       [MEDIA_MARKDOWN] = "text/markdown",
    [MEDIA_HTML] = "text/html",                   [MEDIA_TROFF] = "text/troff",      [MEDIA_SOURCE] = "text/x-source",
    [MEDIA_JSONL] = "application/jsonl",          [MEDIA_CSV] = "text/csv",          [MEDIA_BINARY] = "application/octet-stream",
};
const char *media_type(enum media m) { return media_types[m]; }

static const struct {
    const char *hint;
    enum media media;
} hints[] = {
    {"text/plain", MEDIA_TEXT},          {"text/markdown", MEDIA_MARKDOWN},    {"text/x-markdown", MEDIA_MARKDOWN}, {"text/html", MEDIA_HTML},
    {"application/xhtml+xml", MEDIA_HTML}, {"text/troff", MEDIA_TROFF},        {"application/x-troff", MEDIA_TROFF}, {"application/x-troff-man", MEDIA_TROFF},
    {"text/x-source", MEDIA_SOURCE},     {"application/jsonl", MEDIA_JSONL},   {"application/x-ndjson", MEDIA_JSONL}, {"application/x-jsonlines", MEDIA_JSONL},
    {"text/csv", MEDIA_CSV},             {"text/tab-separated-values", MEDIA_CSV},
    /* these say nothing: the name and the content do */
    {"application/octet-stream", MEDIA_UNKNOWN}, {"application/gzip", MEDIA_UNKNOWN}, {"application/x-gzip", MEDIA_UNKNOWN},
};

static const struct {
    const char *extension;
    enum media media;
} extensions[] = {
    {"md", MEDIA_MARKDOWN}, {"markdown", MEDIA_MARKDOWN}, {"mkd", MEDIA_MARKDOWN},   {"html", MEDIA_HTML},  {"htm", MEDIA_HTML},   {"xhtml", MEDIA_HTML},
    {"mdoc", MEDIA_TROFF},  {"man", MEDIA_TROFF},         {"roff", MEDIA_TROFF},     {"jsonl", MEDIA_JSONL}, {"ndjson", MEDIA_JSONL}, {"csv", MEDIA_CSV},
    {"tsv", MEDIA_CSV},     {"txt", MEDIA_TEXT},          {"text", MEDIA_TEXT},
};

static const struct {
    const char *bytes;
    size_t len, at;
    const char *what;
} magics[] = {
    {"\x7f" "ELF", 4, 0, "ELF"},    {"\x89PNG", 4, 0, "PNG"},      {"\xff\xd8\xff", 3, 0, "JPEG"},     {"GIF8", 4, 0, "GIF"},
    {"%PDF-", 5, 0, "PDF"},         {"PK\x03\x04", 4, 0, "zip"},   {"\xfd" "7zXZ", 5, 0, "xz"},        {"BZh", 3, 0, "bzip2"},
    {"(\xb5/\xfd", 4, 0, "zstd"},   {"7z\xbc\xaf", 4, 0, "7z"},    {"RIFF", 4, 0, "RIFF"},             {"OggS", 4, 0, "Ogg"},
    {"ID3", 3, 0, "MP3"},           {"\0asm", 4, 0, "WebAssembly"}, {"SQLite format 3", 15, 0, "SQLite"}, {"ustar", 5, 257, "tar"},
    {"!<arch>\n", 8, 0, "ar"},      {"%!PS", 4, 0, "PostScript"},  {"\xd0\xcf\x11\xe0", 4, 0, "OLE2"}, {"\xca\xfe\xba\xbe", 4, 0, "class"},
    {"MZ\x90", 3, 0, "PE"},         {"\x1f\x9d", 2, 0, "compress"}, {"{\\rtf", 5, 0, "RTF"},           {"wOF", 3, 0, "WOFF"},
};

bool detect_gzip(struct span c) { return c.len >= 3 && !memcmp(c.data, "\x1f\x8b\x08", 3); }

struct span detect_base_name(struct span name) {
    ptrdiff_t cut = span_find(name, SPAN("://"));
    if (cut >= 0) { /* a URL: its path alone */
        for (size_t i = 0; i < name.len; i++)
            if (name.data[i] == '?' || name.data[i] == '#') {
                name = span_sub(name, 0, i);
                break;
            }
    }
    for (size_t i = name.len; i > 0; i--)
        if (name.data[i - 1] == '/' || name.data[i - 1] == '\\') {
            name = span_skip(name, i);
            break;
        }
    if (name.len > 3 && span_ends(name, SPAN(".gz"))) name = span_sub(name, 0, name.len - 3);
    return name;
}

static struct span extension_of(struct span base) {
    for (size_t i = base.len; i > 1; i--)
        if (base.data[i - 1] == '.') return span_skip(base, i);
    return (struct span){0};
}

/* Whether bytes are text: no NUL and few control characters. UTF-16 with its mark is text too. */
static const char *binary_kind(struct span s) {
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if (s.len >= magics[i].at + magics[i].len && !memcmp(s.data + magics[i].at, magics[i].bytes, magics[i].len)) return magics[i].what;
    if (s.len >= 2 && (!memcmp(s.data, "\xff\xfe", 2) || !memcmp(s.data, "\xfe\xff", 2))) return NULL;
    size_t control = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == 0) return "NUL bytes";
        /* \b and ESC stand in formatted pages of old: overstrikes and colours, which extract_text.c takes out. */
        if ((c < 32 && c != '\n' && c != '\r' && c != '\t' && c != '\f' && c != '\b' && c != 27 && c != '\v') || c == 127) control++;
    }
    return control * 50 > s.len ? "control characters" : NULL;
}

static struct span line_at(struct span *rest) {
    struct span line = {0};
    span_cut(rest, '\n', &line);
    return line;
}

static bool looks_troff(struct span s) {
    struct span rest = s;
    for (int lines = 0; lines < 200 && rest.len; lines++) {
        struct span line = line_at(&rest);
        static const char *const signs[] = {".TH ", ".Dd ", ".TH\t", ".Dd\t", ".Dt ", "'\\\" ", ".so man", ".SH ", ".Sh ", ".de ", ".\\\" "};
        for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
            if (span_starts(line, span_str(signs[i]))) return i < 9; /* a definition or comment alone says not enough, but see below */
        if (line.len && line.data[0] != '.' && line.data[0] != '\'') return false;
    }
    return false;
}

/* ".1", ".3p", ".1ssl", ".5" behind a name: a manual page, where the content has a request somewhere. */
static bool manual_extension(struct span ext) {
    if (!ext.len || ext.len > 8) return false;
    if (!((ext.data[0] >= '1' && ext.data[0] <= '9') || ext.data[0] == 'n' || ext.data[0] == 'l')) return false;
    if ((ext.data[0] == 'n' || ext.data[0] == 'l') && ext.len > 1) return false;
    for (size_t i = 1; i < ext.len; i++)
        if (!((ext.data[i] >= 'a' && ext.data[i] <= 'z') || (ext.data[i] >= 'A' && ext.data[i] <= 'Z') || ext.data[i] == '_' || ext.data[i] == '+')) return false;
    return true;
}

static bool has_requests(struct span s) {
    struct span rest = s;
    int requests = 0;
    while (rest.len && requests < 3) {
        struct span line = line_at(&rest);
        if (line.len > 2 && (line.data[0] == '.' || line.data[0] == '\'') &&
            ((line.data[1] >= 'A' && line.data[1] <= 'Z') || (line.data[1] >= 'a' && line.data[1] <= 'z') || line.data[1] == '\\'))
            requests++;
    }
    return requests >= 3 || (requests && span_starts(s, SPAN(".so ")));
}

static bool looks_html(struct span s) {
    while (s.len) {
        s = span_trim(s);
        if (span_starts(s, SPAN("<?xml"))) {
            ptrdiff_t end = span_find(s, SPAN("?>"));
            if (end < 0) return false;
            s = span_skip(s, (size_t)end + 2);
        } else if (span_starts(s, SPAN("<!--"))) {
            ptrdiff_t end = span_find(s, SPAN("-->"));
            if (end < 0) return false;
            s = span_skip(s, (size_t)end + 3);
        } else
            break;
    }
    return span_eq_nocase(span_sub(s, 0, 14), SPAN("<!doctype html")) || span_eq_nocase(span_sub(s, 0, 5), SPAN("<html")) ||
           span_eq_nocase(span_sub(s, 0, 6), SPAN("<head>"));
}

static bool looks_jsonl(struct span s) {
    struct span rest = s;
    int lines = 0;
    while (rest.len && lines < 5) {
        bool cut = !memchr(rest.data, '\n', rest.len); /* the sniffed piece may end inside a line */
        struct span line = span_trim(line_at(&rest));
        if (!line.len) continue;
        if (line.data[0] != '{' || line.len < 3 || line.data[1] == '\\') return false;
        if (!cut && line.data[line.len - 1] != '}') return false;
        if (!memchr(line.data, '"', line.len) || !memchr(line.data, ':', line.len)) return false;
        lines++;
    }
    return lines > 0;
}

static char csv_delimiter(struct span s, struct span ext) {
    if (span_eq_str(ext, "tsv")) return '\t';
    struct span rest = s, line = line_at(&rest);
    static const char marks[] = {',', ';', '\t', '|'};
    char best = ',';
    size_t most = 0;
    for (size_t m = 0; m < sizeof marks; m++) {
        size_t n = 0;
        bool quoted = false;
        for (size_t i = 0; i < line.len; i++) {
            if (line.data[i] == '"') quoted = !quoted;
            else if (!quoted && line.data[i] == marks[m]) n++;
        }
        if (n > most) most = n, best = marks[m];
    }
    return best;
}

void detect_media(struct span name, struct span content, struct span hint, struct detected *d) {
    *d = (struct detected){.media = MEDIA_TEXT};
    struct span head = span_sub(content, 0, DETECT_SNIFF_BYTES);
    struct span base = detect_base_name(name), ext = extension_of(base);
    const char *binary = binary_kind(head);
    if (binary) {
        d->media = MEDIA_BINARY;
        span_copy(d->what, sizeof d->what, span_str(binary));
        return;
    }
    const char *language = source_language(base);
    ptrdiff_t parameters = span_find_char(hint, ';');
    if (parameters >= 0) hint = span_sub(hint, 0, (size_t)parameters);
    hint = span_trim(hint);
    bool told = false;
    if (hint.len) {
        d->media = MEDIA_UNKNOWN;
        for (size_t i = 0; i < sizeof hints / sizeof *hints; i++)
            if (span_eq_nocase(hint, span_str(hints[i].hint))) {
                told = true;
                d->media = hints[i].media;
            }
        if (!told && span_eq_nocase(span_sub(hint, 0, 5), SPAN("text/"))) {
            told = true;
            d->media = MEDIA_UNKNOWN;
        }
        if (!told) return;
        /* text/plain is what clients say of anything that they do not know */
        if (d->media == MEDIA_TEXT) d->media = MEDIA_UNKNOWN;
    }
    if (!told || d->media == MEDIA_UNKNOWN) {
        d->media = MEDIA_UNKNOWN;
        for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++)
            if (!language && span_eq_nocase(ext, span_str(extensions[i].extension))) d->media = extensions[i].media;
        if (language) d->media = MEDIA_SOURCE; /* also CMakeLists.txt */
        if (d->media == MEDIA_UNKNOWN && manual_extension(ext) && has_requests(content)) d->media = MEDIA_TROFF;
        if (d->media == MEDIA_UNKNOWN && looks_html(head)) d->media = MEDIA_HTML;
        if (d->media == MEDIA_UNKNOWN && looks_troff(head)) d->media = MEDIA_TROFF;
        if (d->media == MEDIA_UNKNOWN && looks_jsonl(head)) d->media = MEDIA_JSONL;
        if (d->media == MEDIA_UNKNOWN && span_starts(head, SPAN("#!"))) {
            struct span rest = head, line = line_at(&rest);
            static const char *const interpreters[][2] = {{"python", "python"}, {"perl", "perl"}, {"ruby", "ruby"}, {"node", "javascript"}, {"awk", "awk"},
                                                          {"tclsh", "tcl"},     {"php", "php"},   {"lua", "lua"},   {"sh", "shell"}};
            language = "shell";
            for (size_t i = 0; i < sizeof interpreters / sizeof *interpreters; i++)
                if (span_find(line, span_str(interpreters[i][0])) >= 0) {
                    language = interpreters[i][1];
                    break;
                }
            d->media = MEDIA_SOURCE;
        }
        if (d->media == MEDIA_UNKNOWN) d->media = MEDIA_TEXT;
    }
    if (d->media == MEDIA_SOURCE) span_copy(d->what, sizeof d->what, span_str(language ? language : "und"));
    if (d->media == MEDIA_CSV) d->delimiter = csv_delimiter(head, ext);
}
