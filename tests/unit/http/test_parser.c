#include "test.h"

#include "base/buf.h"
#include "base/random.h"
#include "http/parser.h"

/* Feeds text in pieces (0: whole; 1: byte by byte; else random) and writes the events as text: "GET /a?b 1.1 k [n=v]", bodies joined in
 * quotes, "." for END, "!400" for REFUSED. Returns how many bytes were taken until a refusal. */
static size_t events_of(struct span text, int cut, struct random *random, const struct http_parser_limits *limits, struct buf *out) {
    struct http_parser p;
    http_parser_init(&p, limits);
    bool quoted = false, refused = false;
    size_t taken = 0;
    while (taken < text.len && !refused) {
        size_t n = cut == 0 ? text.len : cut == 1 ? 1 : 1 + random_below(random, 40);
        struct span piece = span_sub(text, taken, n), rest = piece, data;
        for (enum http_event e; (e = http_parser_next(&p, &rest, &data)) != HTTP_NEED;) {
            if (quoted && e != HTTP_BODY) buf_append_char(out, '"'), quoted = false;
            if (e == HTTP_HEAD) {
                struct http_head h;
                http_parser_take_head(&p, &h);
                buf_printf(out, "%.*s %.*s%s%.*s 1.%d %s%s%s", SPAN_ARG(h.method), SPAN_ARG(h.path), h.query.data ? "?" : "", (int)h.query.len, h.query.data ? h.query.data : "", h.minor,
                           h.keep_alive ? "k" : "c", h.has_body ? "b" : "", h.expects_continue ? "x" : "");
                for (size_t i = 0; i < h.field_count; i++)
                    if (!span_eq_nocase(h.fields[i].name, SPAN("host"))) buf_printf(out, " [%.*s=%.*s]", SPAN_ARG(h.fields[i].name), SPAN_ARG(h.fields[i].value));
                buf_append_char(out, ' ');
                http_head_fini(&h);
            } else if (e == HTTP_BODY) {
                assert_true(data.len > 0);
                if (!quoted) buf_append_char(out, '"');
                quoted = true;
                buf_append_span(out, data);
            } else if (e == HTTP_END) {
                buf_append_str(out, ". ");
            } else {
                buf_printf(out, "!%d", http_parser_status(&p));
                assert_true(http_parser_reason(&p)[0]);
                assert_int_equal(http_parser_next(&p, &rest, &data), HTTP_REFUSED);
                refused = true;
                break;
            }
        }
        taken += piece.len - rest.len;
    }
    if (quoted) buf_append_char(out, '"');
    http_parser_fini(&p);
    return taken;
}

#define H "Host: a\r\n"
#define GET_LINE "GET /p HTTP/1.1\r\n"
#define GET(fields) GET_LINE H fields "\r\n"
#define POST(fields, body) "POST /p HTTP/1.1\r\n" H fields "\r\n" body
#define CHUNKED(body) POST("Transfer-Encoding: chunked\r\n", body)
#define LINE(line) line "\r\n" H "\r\n"
#define HOST(value) GET_LINE "Host: " value "\r\n\r\n"
#define LENGTH(value) POST("Content-Length: " value "\r\n", "12345")
#define CODING(value) POST("Transfer-Encoding: " value "\r\n", "0\r\n\r\n")
#define TEXT(name, status, literal) {name, status, {literal, sizeof literal - 1}}

static const struct {
    const char *name;
    int status;
    struct span text;
} malformed[] = {
    TEXT("http 0.9", 400, LINE("GET /p")), TEXT("version 0.9", 505, LINE("GET /p HTTP/0.9")), TEXT("version 2.0", 505, LINE("GET /p HTTP/2.0")), TEXT("version 9.9", 505, LINE("GET /p HTTP/9.9")), TEXT("version 1.2", 505, LINE("GET /p HTTP/1.2")),
    TEXT("version 1", 400, LINE("GET /p HTTP/1")), TEXT("version lower case", 400, LINE("GET /p http/1.1")), TEXT("version tail", 400, LINE("GET /p HTTP/1.1x")), TEXT("version two digits", 400, LINE("GET /p HTTP/1.10")),
    TEXT("version leading zero", 400, LINE("GET /p HTTP/01.1")), TEXT("version comma", 400, LINE("GET /p HTTP/1,1")), TEXT("other protocol", 400, LINE("GET /p RTSP/1.0")), TEXT("two spaces", 400, LINE("GET  /p HTTP/1.1")),
    TEXT("two spaces behind", 400, LINE("GET /p  HTTP/1.1")), TEXT("tab", 400, LINE("GET\t/p HTTP/1.1")), TEXT("leading space", 400, LINE(" GET /p HTTP/1.1")), TEXT("trailing space", 400, LINE("GET /p HTTP/1.1 ")), TEXT("space in target", 400, LINE("GET /p x HTTP/1.1")),
    TEXT("no method", 400, LINE(" /p HTTP/1.1")), TEXT("no target", 400, LINE("GET HTTP/1.1")), TEXT("method no token", 400, LINE("G(T /p HTTP/1.1")), TEXT("method with NUL", 400, LINE("GE\0T /p HTTP/1.1")), TEXT("method lower case", 501, LINE("get /p HTTP/1.1")),
    TEXT("target relative", 400, LINE("GET models HTTP/1.1")), TEXT("target star", 400, LINE("GET * HTTP/1.1")), TEXT("target NUL", 400, LINE("GET /\0 HTTP/1.1")), TEXT("target control", 400, LINE("GET /\x01 HTTP/1.1")), TEXT("target 8 bit", 400, LINE("GET /\xff HTTP/1.1")),
    TEXT("target percent", 400, LINE("GET /%zz HTTP/1.1")), TEXT("target half percent", 400, LINE("GET /%4 HTTP/1.1")), TEXT("target percent NUL", 400, LINE("GET /v1/%00 HTTP/1.1")), TEXT("target fragment", 400, LINE("GET /p#x HTTP/1.1")),
    TEXT("target climbs", 400, LINE("GET /../../etc/passwd HTTP/1.1")), TEXT("target climbs encoded", 400, LINE("GET /a/%2e%2E/b HTTP/1.1")), TEXT("target climbs half encoded", 400, LINE("GET /a/.%2e HTTP/1.1")), TEXT("dot", 400, LINE("GET /a/./b HTTP/1.1")),
    TEXT("backslash", 400, LINE("GET /a\\b HTTP/1.1")), TEXT("authority form", 400, LINE("GET example.com:80 HTTP/1.1")), TEXT("connect", 501, LINE("CONNECT example.com:443 HTTP/1.1")), TEXT("trace", 501, LINE("TRACE /p HTTP/1.1")), TEXT("bare CR", 400, LINE("GET /p\r HTTP/1.1")),
    TEXT("absolute with user", 400, LINE("GET http://u@a/ HTTP/1.1")), TEXT("absolute without host", 400, LINE("GET http:///p HTTP/1.1")), TEXT("other scheme", 400, LINE("GET ftp://a/p HTTP/1.1")),
    TEXT("tls hello", 400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), TEXT("noise", 400, "\x80\x81\x82\r\n\r\n"), TEXT("http 2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), TEXT("many empty lines", 400, "\r\n\r\n\r\n" GET("")), TEXT("empty line LF", 400, "\n" GET("")),

    TEXT("host missing", 400, GET_LINE "\r\n"), TEXT("host twice", 400, GET("Host: a\r\n")), TEXT("two hosts", 400, GET("hOsT: b\r\n")), TEXT("host with space", 400, HOST("a b")), TEXT("host with path", 400, HOST("a/b")), TEXT("host with user", 400, HOST("u@a")),
    TEXT("host bad port", 400, HOST("a:8x")), TEXT("host port too large", 400, HOST("a:65536")), TEXT("host list", 400, HOST("a, b")), TEXT("host list tight", 400, HOST("a,b")), TEXT("host NUL", 400, HOST("a\0b")), TEXT("host empty", 400, HOST("")), TEXT("host open bracket", 400, HOST("[::1")),

    TEXT("space before colon", 400, GET("X-A : b\r\n")), TEXT("tab before colon", 400, GET("X-A\t: b\r\n")), TEXT("empty name", 400, GET(": b\r\n")), TEXT("space in name", 400, GET("X A: b\r\n")), TEXT("control in name", 400, GET("X\x01" "A: b\r\n")),
    TEXT("8 bit in name", 400, GET("X\xe9: b\r\n")), TEXT("bracket in name", 400, GET("X(A: b\r\n")), TEXT("no colon", 400, GET("garbage\r\n")), TEXT("NUL in value", 400, GET("X-A: a\0b\r\n")), TEXT("control in value", 400, GET("X-A: a\x01" "b\r\n")),
    TEXT("delete in value", 400, GET("X-A: a\x7f" "b\r\n")), TEXT("bare CR in value", 400, GET("X-A: a\rX-B: b\r\n")), TEXT("bare LF ends field", 400, GET("X-A: a\nX-B: b\r\n")), TEXT("bare LF everywhere", 400, "GET /p HTTP/1.1\nHost: a\n\n"),
    TEXT("fold", 400, GET("X-A: a\r\n b\r\n")), TEXT("fold by tab", 400, GET("X-A: a\r\n\tb\r\n")), TEXT("fold before first", 400, GET_LINE " X-A: b\r\n\r\n"), TEXT("LF ends head", 400, GET_LINE H "\n"), TEXT("other expectation", 417, POST("Expect: 200-maybe\r\n", "")),

    TEXT("length twice", 400, POST("Content-Length: 5\r\nContent-Length: 5\r\n", "12345")), TEXT("two lengths", 400, POST("Content-Length: 5\r\ncontent-length: 3\r\n", "12345")), TEXT("length list", 400, LENGTH("5, 5")), TEXT("length list other", 400, LENGTH("5, 3")), TEXT("length plus", 400, LENGTH("+5")),
    TEXT("length minus", 400, LENGTH("-1")), TEXT("length tail", 400, LENGTH("5x")), TEXT("length hex", 400, LENGTH("0x10")), TEXT("length inner space", 400, LENGTH("1 0")), TEXT("length empty", 400, LENGTH("")), TEXT("length beyond 64 bits", 400, LENGTH("18446744073709551621")),
    TEXT("length beyond 63 bits", 400, LENGTH("9223372036854775808")), TEXT("length many digits", 400, LENGTH("99999999999999999999999999999999999999999999999999")), TEXT("length fraction", 400, LENGTH("5.0")), TEXT("length exponent", 400, LENGTH("1e1")), TEXT("length quoted", 400, LENGTH("\"5\"")),
    TEXT("length full width", 400, LENGTH("\xef\xbc\x95")), TEXT("length NUL", 400, LENGTH("5\0")), TEXT("length semicolon", 400, LENGTH("5;6")), TEXT("length space before colon", 400, POST("Content-Length : 5\r\n", "12345")), TEXT("length folded", 400, POST("Content-Length:\r\n 5\r\n", "12345")),

    TEXT("length then chunked", 400, POST("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")), TEXT("chunked then length", 400, POST("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")), TEXT("length zero and chunked", 400, POST("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
    TEXT("identity", 501, CODING("identity")), TEXT("gzip", 501, CODING("gzip")), TEXT("chunked not last", 400, CODING("chunked, gzip")), TEXT("gzip, chunked", 400, CODING("gzip, chunked")), TEXT("chunked twice", 400, CODING("chunked, chunked")), TEXT("xchunked", 501, CODING("xchunked")), TEXT("chunkedx", 501, CODING("chunkedx")),
    TEXT("coding twice", 400, POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")), TEXT("coding parameter", 400, CODING("chunked;q=1")), TEXT("coding quoted", 400, CODING("\"chunked\"")), TEXT("coding empty", 400, CODING("")), TEXT("coding space before colon", 400, POST("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
    TEXT("coding vertical tab", 400, CODING("\x0b" "chunked")), TEXT("coding NUL", 400, CODING("chunked\0")), TEXT("coding folded", 400, CODING("\r\n chunked")), TEXT("two codings", 400, POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
    TEXT("hidden by CR", 400, POST("X-A: b\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n")), TEXT("hidden by space", 400, POST(" Transfer-Encoding: chunked\r\nX-B: 1\r\n", "0\r\n\r\n")), TEXT("chunked in 1.0", 400, "POST /p HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),

    TEXT("chunk hex prefix", 400, CHUNKED("0x1\r\na\r\n0\r\n\r\n")), TEXT("chunk plus", 400, CHUNKED("+1\r\na\r\n0\r\n\r\n")), TEXT("chunk minus", 400, CHUNKED("-1\r\na\r\n0\r\n\r\n")), TEXT("chunk no size", 400, CHUNKED("\r\na\r\n0\r\n\r\n")), TEXT("chunk not hex", 400, CHUNKED("g\r\na\r\n0\r\n\r\n")),
    TEXT("chunk wraps", 400, CHUNKED("10000000000000001\r\na\r\n0\r\n\r\n")), TEXT("chunk all ones", 400, CHUNKED("ffffffffffffffff\r\na\r\n0\r\n\r\n")), TEXT("chunk many zeros", 400, CHUNKED("00000000000000001\r\na\r\n0\r\n\r\n")), TEXT("chunk space before", 400, CHUNKED(" 1\r\na\r\n0\r\n\r\n")),
    TEXT("chunk space behind", 400, CHUNKED("1 \r\na\r\n0\r\n\r\n")), TEXT("chunk underscore", 400, CHUNKED("1_0\r\na\r\n0\r\n\r\n")), TEXT("chunk comma", 400, CHUNKED("1,1\r\na\r\n0\r\n\r\n")), TEXT("chunk too long", 400, CHUNKED("1\r\nab\r\n0\r\n\r\n")), TEXT("chunk without end", 400, CHUNKED("1\r\na0\r\n\r\n")),
    TEXT("chunk ends in LF", 400, CHUNKED("1\r\na\n0\r\n\r\n")), TEXT("size ends in LF", 400, CHUNKED("1\na\r\n0\r\n\r\n")), TEXT("size ends in CR", 400, CHUNKED("1\ra\r\n0\r\n\r\n")), TEXT("LF in extension", 400, CHUNKED("1;x\ny\r\na\r\n0\r\n\r\n")), TEXT("CR in extension", 400, CHUNKED("1;x\ry\r\na\r\n0\r\n\r\n")),
    TEXT("NUL in extension", 400, CHUNKED("1;x\0\r\na\r\n0\r\n\r\n")), TEXT("trailer without colon", 400, CHUNKED("0\r\nbad\r\n\r\n")), TEXT("trailer space before colon", 400, CHUNKED("0\r\nX : y\r\n\r\n")), TEXT("trailer folded", 400, CHUNKED("0\r\nX: y\r\n z\r\n\r\n")), TEXT("noise behind last", 400, CHUNKED("0\r\n\x01\x02\r\n\r\n")),
    TEXT("last chunk LF", 400, CHUNKED("0\n\n")),
};

static const struct {
    const char *name, *text, *events;
} valid[] = {
    {"get", GET(""), "GET /p 1.1 k . "},
    {"post", POST("Content-Length: 5\r\n", "12345"), "POST /p 1.1 kb [Content-Length=5] \"12345\". "},
    {"length zero", POST("Content-Length: 0\r\n", ""), "POST /p 1.1 k [Content-Length=0] . "},
    {"chunked", CHUNKED("5\r\n12345\r\n0\r\n\r\n"), "POST /p 1.1 kb [Transfer-Encoding=chunked] \"12345\". "},
    {"extensions and trailers", CHUNKED("3;ext=1;q=\"a b\"\r\nabc\r\nB\r\n0123456789a\r\n000\r\nX-Trailer: 1\r\nContent-Length: 7\r\n\r\n"), "POST /p 1.1 kb [Transfer-Encoding=chunked] \"abc0123456789a\". "},
    {"coding upper case", CODING("CHUNKED"), "POST /p 1.1 kb [Transfer-Encoding=CHUNKED] . "},
    {"names in mixed case", GET("cOnNeCtIoN: keep-alive\r\nACCEPT: */*\r\n"), "GET /p 1.1 k [cOnNeCtIoN=keep-alive] [ACCEPT=*/*] . "},
    {"spaces", GET("X-A:b\r\nX-B: \t  b c \t \r\nX-C:\r\nX-D: \t\r\n"), "GET /p 1.1 k [X-A=b] [X-B=b c] [X-C=] [X-D=] . "},
    {"8 bit value", GET("X-A: caf\xe9\r\n"), "GET /p 1.1 k [X-A=caf\xe9] . "},
    {"token characters", GET("X!#$%&'*+-.^_`|~9: b\r\n"), "GET /p 1.1 k [X!#$%&'*+-.^_`|~9=b] . "},
    {"leading empty line", "\r\n" GET(""), "GET /p 1.1 k . "},
    {"absolute form", LINE("GET http://a:80/p?q HTTP/1.1"), "GET /p?q 1.1 k . "},
    {"absolute form without path", LINE("GET http://a?q HTTP/1.1"), "GET /?q 1.1 k . "},
    {"hosts", HOST("LOCALHOST:8080") HOST("[::1]:80") HOST("a-b_c.d:") HOST("127.0.0.1"), "GET /p 1.1 k . GET /p 1.1 k . GET /p 1.1 k . GET /p 1.1 k . "},
    {"get with body", GET_LINE H "Content-Length: 3\r\n\r\nGET" GET(""), "GET /p 1.1 kb [Content-Length=3] \"GET\". GET /p 1.1 k . "},
    {"close", GET("Connection: keep-alive, Close\r\n"), "GET /p 1.1 c [Connection=keep-alive, Close] . "},
    {"1.0", "GET /p HTTP/1.0\r\n\r\n", "GET /p 1.0 c . "},
    {"1.0 kept", "GET /p HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET /p 1.0 k [Connection=Keep-Alive] . "},
    {"options star", LINE("OPTIONS * HTTP/1.1"), "OPTIONS * 1.1 k . "},
    {"query", LINE("GET /a%20b/..c/.../d?x=[1]&y=%2e%2e/../z?? HTTP/1.1"), "GET /a%20b/..c/.../d?x=[1]&y=%2e%2e/../z?? 1.1 k . "},
    {"expect", POST("Expect: 100-Continue\r\nContent-Length: 1\r\n", "x"), "POST /p 1.1 kbx [Expect=100-Continue] [Content-Length=1] \"x\". "},
    {"other expectation of 1.0", "GET /p HTTP/1.0\r\nExpect: magic\r\n\r\n", "GET /p 1.0 c [Expect=magic] . "},
    {"half a head", GET_LINE H, ""},
    {"half a body", POST("Content-Length: 5\r\n", "123"), "POST /p 1.1 kb [Content-Length=5] \"123\""},
    {"half a chunk", CHUNKED("ff\r\nabc"), "POST /p 1.1 kb [Transfer-Encoding=chunked] \"abc\""},
    {"no end of trailers", CHUNKED("0\r\n"), "POST /p 1.1 kb [Transfer-Encoding=chunked] "},
};

/* The same events whole, byte by byte and in random pieces; and nothing behind a refusal is read. */
static void check(const char *name, struct span text, const char *expected, const struct http_parser_limits *limits, struct random *random) {
    for (int cut = 0; cut < 6; cut++) {
        struct buf out;
        buf_init(&out, 1 << 20);
        events_of(text, cut, random, limits, &out);
        CHECK(strcmp(buf_cstr(&out), expected) == 0, "%s, cut %d: %s, wanted %s", name, cut, buf_cstr(&out), expected);
        buf_fini(&out);
    }
}

static void refused(void **state) {
    (void)state;
    struct random random;
    random_seed(&random, 1);
    for (size_t i = 0; i < COUNT(malformed); i++) {
        struct buf text, out;
        buf_init(&text, 1 << 16);
        buf_append_span(&text, malformed[i].text);
        buf_append_str(&text, GET("Connection: close\r\n")); /* must never be read as a request */
        char wanted[8], status[8];
        for (int cut = 0; cut < 6; cut++) {
            buf_init(&out, 1 << 16);
            events_of(buf_span(&text), cut, &random, NULL, &out);
            const char *mark = strchr(buf_cstr(&out), '!');
            snprintf(wanted, sizeof wanted, "!%d", malformed[i].status);
            span_copy(status, sizeof status, span_str(mark ? mark : "none"));
            CHECK(strcmp(status, wanted) == 0, "%s, cut %d: %s, wanted %s", malformed[i].name, cut, buf_cstr(&out), wanted);
            CHECK(!strstr(buf_cstr(&out), ". "), "%s, cut %d: a request was completed: %s", malformed[i].name, cut, buf_cstr(&out));
            buf_fini(&out);
        }
        buf_fini(&text);
    }
}

static void accepted(void **state) {
    (void)state;
    struct random random;
    random_seed(&random, 2);
    for (size_t i = 0; i < COUNT(valid); i++) check(valid[i].name, span_str(valid[i].text), valid[i].events, NULL, &random);
}

static void repeat(struct buf *b, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) buf_append_str(b, text);
}

/* Each limit: at it, and one beyond. */
static void limits(void **state) {
    (void)state;
    static const struct http_parser_limits small = {.request_line_max = 100, .head_max = 300, .fields_max = 5, .extension_max = 20, .trailer_max = 30};
    static const struct {
        const char *name, *before, *repeated;
        size_t count; /* the most that is taken */
        const char *after;
        int status;
    } cases[] = {
        {"request line", "GET /", "x", 100 - 14, " HTTP/1.1\r\n" H "\r\n", 414},
        {"head", "GET /p HTTP/1.1\r\nHost: a\r\nX: ", "y", 300 - 15 - 7 - 3, "\r\n\r\n", 431},
        {"name", "GET /p HTTP/1.1\r\nHost: a\r\n", "n", 300 - 15 - 7 - 1, ":\r\n\r\n", 431},
        {"fields", "GET /p HTTP/1.1\r\nHost: a\r\n", "A: b\r\n", 4, "\r\n", 431},
        {"extension", CHUNKED("1;"), "e", 20, "\r\nx\r\n0\r\n\r\n", 400},
        {"trailer", CHUNKED("0\r\nT: "), "t", 27, "\r\n\r\n", 431},
        {"trailers", CHUNKED("0\r\n"), "T:\r\n", 15, "\r\n", 431},
    };
    struct random random;
    random_seed(&random, 3);
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t beyond = 0; beyond < 2; beyond++)
            for (int cut = 0; cut < 3; cut++) {
                struct buf text, out;
                buf_init(&text, 1 << 16);
                buf_init(&out, 1 << 16);
                buf_append_str(&text, cases[i].before);
                repeat(&text, cases[i].repeated, cases[i].count + beyond);
                buf_append_str(&text, cases[i].after);
                events_of(buf_span(&text), cut, &random, &small, &out);
                char wanted[8];
                snprintf(wanted, sizeof wanted, "!%d", cases[i].status);
                CHECK(span_ends(buf_span(&out), beyond ? span_str(wanted) : SPAN(". ")), "%s, %zu beyond, cut %d: %s", cases[i].name, beyond, cut, buf_cstr(&out));
                buf_fini(&text);
                buf_fini(&out);
            }
}

/* Random pieces of requests, joined: however they are cut, the events are the same. */
static void cuts(void **state) {
    (void)state;
    static const char *const pieces[] = {"GET /p HTTP/1.1\r\n", "POST /q?x HTTP/1.1\r\n", "Host: a\r\n", "\r\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "abc", "X: y\r\n", "\r", "\n", ";e", "Connection: close\r\n", "GET / HTTP/1.0\r\n\r\n", " "};
    struct random random;
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    random_seed(&random, seed);
    for (int round = 0; round < 20000; round++) {
        char text[1000];
        size_t len = 0;
        if (random_below(&random, 2)) len = (size_t)snprintf(text, sizeof text, "%s%s", pieces[random_below(&random, 2)], pieces[2]);
        for (uint64_t n = random_below(&random, 12); n; n--) {
            const char *piece = pieces[random_below(&random, COUNT(pieces))];
            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
        struct buf whole, bytes, cut;
        buf_init(&whole, 1 << 16);
        buf_init(&bytes, 1 << 16);
        buf_init(&cut, 1 << 16);
        size_t a = events_of(span_of(text, len), 0, &random, NULL, &whole), b = events_of(span_of(text, len), 1, &random, NULL, &bytes), c = events_of(span_of(text, len), 2, &random, NULL, &cut);
        CHECK(span_eq(buf_span(&whole), buf_span(&bytes)) && span_eq(buf_span(&whole), buf_span(&cut)) && a == b && b == c, "seed %llu round %d: %s | %s | %s", (unsigned long long)seed, round, buf_cstr(&whole), buf_cstr(&bytes), buf_cstr(&cut));
        buf_fini(&whole);
        buf_fini(&bytes);
        buf_fini(&cut);
    }
}

static void without_memory(void **state) {
    (void)state;
    struct span text = SPAN(POST("X-A: b\r\nX-C: d\r\nContent-Length: 2\r\n", "xy"));
    bool done = false;
    for (uint64_t at = 1; !done && at < 100; at++) {
        struct http_parser p;
        struct span rest = text, data;
        enum http_event e;
        http_parser_init(&p, NULL);
        alloc_fail_at(at);
        while ((e = http_parser_next(&p, &rest, &data)) == HTTP_HEAD || e == HTTP_BODY) {}
        alloc_fail_at(0);
        CHECK(e == HTTP_END || (e == HTTP_REFUSED && http_parser_status(&p) == 503), "allocation %d: event %d", (int)at, (int)e);
        done = e == HTTP_END;
        http_parser_fini(&p);
    }
    assert_true(done);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(refused), cmocka_unit_test(accepted), cmocka_unit_test(limits), cmocka_unit_test(cuts), cmocka_unit_test(without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
