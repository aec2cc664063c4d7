/* Source code: the language by its name. The text stays as it is (verbatim lines are what it is made of), so there is no extraction. */
#include "services/ingest/detect.h"

static const struct {
    const char *extension, *language;
} languages[] = {
    {"c", "c"}, {"h", "c"}, {"cc", "cpp"}, {"cpp", "cpp"}, {"cxx", "cpp"}, {"hpp", "cpp"}, {"hh", "cpp"}, {"hxx", "cpp"}, {"rs", "rust"}, {"go", "go"},
    {"py", "python"}, {"pyi", "python"}, {"pl", "perl"}, {"pm", "perl"}, {"pod", "perl"}, {"rb", "ruby"}, {"js", "javascript"}, {"mjs", "javascript"},
    {"jsx", "javascript"}, {"ts", "typescript"}, {"tsx", "typescript"}, {"java", "java"}, {"kt", "kotlin"}, {"scala", "scala"}, {"cs", "csharp"},
    {"swift", "swift"}, {"m", "objective-c"}, {"php", "php"}, {"lua", "lua"}, {"sh", "shell"}, {"bash", "shell"}, {"zsh", "shell"}, {"fish", "shell"},
    {"sql", "sql"}, {"r", "r"}, {"jl", "julia"}, {"hs", "haskell"}, {"ml", "ocaml"}, {"mli", "ocaml"}, {"ex", "elixir"}, {"exs", "elixir"},
    {"erl", "erlang"}, {"clj", "clojure"}, {"lisp", "lisp"}, {"el", "lisp"}, {"scm", "scheme"}, {"f90", "fortran"}, {"f", "fortran"}, {"asm", "assembly"},
    {"s", "assembly"}, {"zig", "zig"}, {"nim", "nim"}, {"dart", "dart"}, {"awk", "awk"}, {"sed", "sed"}, {"tcl", "tcl"}, {"vim", "vim"},
    {"proto", "protobuf"}, {"css", "css"}, {"scss", "css"}, {"xml", "xml"}, {"xsl", "xml"}, {"json", "json"}, {"yaml", "yaml"}, {"yml", "yaml"},
    {"toml", "toml"}, {"ini", "ini"}, {"conf", "ini"}, {"cfg", "ini"}, {"cmake", "cmake"}, {"mk", "make"}, {"tex", "latex"}, {"sty", "latex"},
    {"v", "verilog"}, {"vhd", "vhdl"}, {"cu", "cuda"}, {"cl", "opencl"}, {"diff", "diff"}, {"patch", "diff"}, {"bat", "batch"}, {"ps1", "powershell"},
};
static const struct {
    const char *name, *language;
} names[] = {{"Makefile", "make"}, {"makefile", "make"}, {"GNUmakefile", "make"}, {"CMakeLists.txt", "cmake"}, {"Dockerfile", "dockerfile"}, {"Rakefile", "ruby"},
             {"Gemfile", "ruby"}, {"configure.ac", "m4"}, {"meson.build", "meson"}};

const char *source_language(struct span base) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (span_eq_str(base, names[i].name)) return names[i].language;
    size_t dot = base.len;
    while (dot > 0 && base.data[dot - 1] != '.') dot--;
    if (dot <= 1) return NULL;
    struct span ext = span_skip(base, dot);
    for (size_t i = 0; i < sizeof languages / sizeof *languages; i++)
        if (span_eq_str(ext, languages[i].extension)) return languages[i].language;
    return NULL;
}
