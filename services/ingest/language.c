#include "services/ingest/language.h"

#include <pthread.h>

/* The small words of each language, without those that several share widely. */
static const struct {
    const char *tag, *words;
} languages[] = {
    {"en", " the of and to is in that it for be with as on by this are which from or an not if can will when have has you was at "},
    {"de", " der die und das ist nicht ein eine den mit von zu auf für werden wird dem sich des auch oder als bei aus sie wenn kann nur "},
    {"fr", " le la les des et est une du dans pour que qui sur pas par avec ce au sont ou cette être plus peut vous il son "},
    {"es", " el los las y que en una por con para es se del como más su al lo este esta puede no son si está "},
    {"it", " il di che è e per un una non con sono del della dei nel alla questo gli anche come le essere si può lo "},
    {"pt", " o os que e do da em um uma para com não por se no na dos como mais ao pode são é isso ou este "},
    {"nl", " de het een en van is dat niet op te zijn voor met die wordt aan of ook bij als worden kan deze er naar "},
    {"sv", " och att det som är en på för av inte med den till ett om har kan du från eller ska när vid "},
    {"da", " og at det er en af til på ikke der med den for som et kan fra har du eller ved skal hvis blive "},
    {"nb", " og det er som på for av ikke med til en den et kan fra har du eller ved skal hvis bli også å "},
    {"pl", " i w nie na się z do jest to że jak o po dla przez są od lub może być który które tego oraz "},
    {"cs", " a je se na v že s z to do pro jako nebo který jsou které pokud při lze není být tento také "},
    {"fi", " ja on ei se että tai joka ovat myös kun voidaan voi ole jos sekä mutta tämä sen kuin "},
    {"hu", " a az és hogy nem egy is van ez meg vagy csak ha lehet mint azt amely nincs fel kell "},
    {"ro", " și de în a la cu nu este pe un o care din să pentru sau mai se sunt ca fi poate prin "},
    {"tr", " ve bir bu için ile de da olarak daha olan gibi değil ne çok kadar veya ise her sonra "},
};
enum { LANGUAGES = sizeof languages / sizeof *languages, WORD_MAX = 16 };

enum { LATIN, CYRILLIC, GREEK, HAN, KANA, HANGUL, ARABIC, HEBREW, THAI, DEVANAGARI, UKRAINIAN, SCRIPTS };

static int script_of(uint32_t c) {
    if (c < 0x250) return LATIN;
    if (c == 0x456 || c == 0x457 || c == 0x454 || c == 0x491) return UKRAINIAN;
    if (c >= 0x400 && c < 0x530) return CYRILLIC;
    if (c >= 0x370 && c < 0x400) return GREEK;
    if (c >= 0x590 && c < 0x600) return HEBREW;
    if (c >= 0x600 && c < 0x700) return ARABIC;
    if (c >= 0x900 && c < 0x980) return DEVANAGARI;
    if (c >= 0xe00 && c < 0xe80) return THAI;
    if (c >= 0x3040 && c < 0x3100) return KANA;
    if (c >= 0xac00 && c < 0xd7b0) return HANGUL;
    if ((c >= 0x4e00 && c < 0xa000) || (c >= 0x3400 && c < 0x4dc0) || (c >= 0x20000 && c < 0x30000)) return HAN;
    return -1;
}

static const char *by_script(const uint64_t *script, uint64_t letters) {
    if (script[KANA] * 20 > letters) return "ja";
    if (script[HANGUL] * 3 > letters) return "ko";
    if (script[HAN] * 4 > letters) return "zh";
    if ((script[CYRILLIC] + script[UKRAINIAN]) * 3 > letters) return script[UKRAINIAN] * 40 > script[CYRILLIC] ? "uk" : "ru";
    if (script[GREEK] * 3 > letters) return "el";
    if (script[ARABIC] * 3 > letters) return "ar";
    if (script[HEBREW] * 3 > letters) return "he";
    if (script[THAI] * 3 > letters) return "th";
    if (script[DEVANAGARI] * 3 > letters) return "hi";
    return NULL;
}

/* Small words of all languages: their hash and a bit per language. Filled by the first that asks. */
enum { SLOTS = 1024 };
struct small_word {
    uint64_t hash;
    uint32_t languages;
};
static void build(struct small_word table[SLOTS]) {
    memset(table, 0, SLOTS * sizeof *table);
    for (int l = 0; l < LANGUAGES; l++) {
        struct span rest = span_str(languages[l].words), word;
        while (span_cut(&rest, ' ', &word)) {
            if (!word.len) continue;
            uint64_t h = span_hash(word);
            size_t i = h & (SLOTS - 1);
            while (table[i].hash && table[i].hash != h) i = (i + 1) & (SLOTS - 1);
            table[i].hash = h;
            table[i].languages |= 1u << l;
        }
    }
}

static struct small_word small_words[SLOTS];
static pthread_once_t small_words_once = PTHREAD_ONCE_INIT;
static void build_once(void) { build(small_words); }

const char *language_of(struct span text) {
    pthread_once(&small_words_once, build_once);
    text = span_sub(text, 0, LANGUAGE_BYTES_MAX);
    uint64_t script[SCRIPTS] = {0}, letters = 0, words = 0, hits[LANGUAGES] = {0};
    char word[WORD_MAX];
    size_t n = 0;
    bool cut = false;
    for (size_t i = 0; i <= text.len;) {
        uint32_t c = ' ';
        size_t len = 1;
        if (i < text.len) {
            len = span_utf8_decode(span_skip(text, i), &c);
            if (!len) {
                i++;
                continue;
            }
        }
        if (c >= 'A' && c <= 'Z') c += 32;
        bool is_letter = (c >= 'a' && c <= 'z') || c >= 0xc0;
        if (is_letter) {
            int s = c >= 0x2000 && c < 0x3000 ? -1 : script_of(c);
            if (s >= 0) {
                script[s]++;
                letters++;
            }
            if (n + len > WORD_MAX) cut = true;
            else {
                if (len == 1) word[n] = (char)c;
                else memcpy(word + n, text.data + i, len);
                n += len;
            }
        } else {
            if (n || cut) words++;
            if (n && !cut) {
                uint64_t h = span_hash(span_of(word, n));
                for (size_t k = h & (SLOTS - 1); small_words[k].hash; k = (k + 1) & (SLOTS - 1))
                    if (small_words[k].hash == h) {
                        for (uint32_t bits = small_words[k].languages; bits; bits &= bits - 1) hits[__builtin_ctz(bits)]++;
                        break;
                    }
            }
            n = 0;
            cut = false;
        }
        i += len;
    }
    if (letters < 20) return "und";
    const char *tag = by_script(script, letters);
    if (tag) return tag;
    int best = -1;
    uint64_t most = 0, second = 0;
    for (int l = 0; l < LANGUAGES; l++)
        if (hits[l] > most) {
            second = most;
            most = hits[l];
            best = l;
        } else if (hits[l] > second)
            second = hits[l];
    /* Prose has a small word in every five; lists of names and commands have not. Two that are as good decide nothing. */
    if (best < 0 || most < 3 || most * 14 < words || most == second) return "und";
    return languages[best].tag;
}
