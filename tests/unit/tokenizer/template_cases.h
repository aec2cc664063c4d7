/* Templates and what jinja2 3.1.6 gives for them in the environment of transformers 5: recorded, so that the test needs neither. NULL: it raises. */
static const char case_variables[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi  there\\n\"}, {\"role\": \"assistant\", \"content\": \"Hello <b>, \\\"q\\\" 's"
    "\", \"n\": 1, \"f\": 1.5, \"t\": true, \"z\": null, \"l\": [1, 2, 3], \"d\": {\"b\": 2, \"a\": 1}}, {\"role\": \"user\", \"content"
    "\": \"\303\244\303\226\303\237\346\227\245\346\234\254\360\237\231\202 x\"}], \"tools\": [{\"type\": \"function\", \"function\": {\"name"
    "\": \"w\", \"parameters\": {\"x\": {\"y\": [1, 2.0, null, true, \"\303\251\\n\177\342\200\250\"]}}}}], \"s\": \"abc,def,,g"
    "\", \"e\": \"\", \"num\": 7, \"neg\": -7, \"pi\": 3.14159, \"big\": 1e+22, \"small\": 1e-07, \"lst\": [3, 1, 2, 5], \"names\": ["
    "\"b\", \"A\", \"c\", \"a\"], \"objs\": [{\"k\": \"x\", \"v\": 2}, {\"k\": \"Y\", \"v\": 1}, {\"k\": \"x\", \"v\": 3}, {\"v\": 9}], \"dct"
    "\": {\"z\": 1, \"A\": 2, \"m\": [1]}, \"ml\": \"line1\\n\\n  line2\\nl3\\n\"}";
static const struct {
    const char *template, *text;
} cases[] = {
    {"{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}",
     "5.0 3 -4 1 2 1024 0.5 64 4"},
    {"{{ 1.0 }} {{ 1e22 }} {{ 1e16 }} {{ 1e15 }} {{ 123456.789 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1/3 }} {{ 100.0 }} {{ pi }} {{ big }}"
     " {{ small }} {{ 5e-324 }} {{ -0.0 }}",
     "1.0 1e+22 1e+16 1000000000000000.0 123456.789 0.30000000000000004 1e-05 0.0001 0.3333333333333333 100.0 3.14159 1e+22 1e-07 5e-324 -0.0"},
    {"{{ [1, 'a', none, true, 1.5, {'k': \"it's\"}, (1,), ()] }} {{ {'a': {'b': 1}} }} {{ \"q\\\"'\" }} {{ [\"q\\\"'\", 'a\\nb\\\\', \"tab"
     "\\t\", \"\303\251\360\237\231\202\\x07\\u2028\"] }}",
     "[1, 'a', None, True, 1.5, {'k': \"it's\"}, (1,), ()] {'a': {'b': 1}} q\"' ['q\"\\'', 'a\\nb\\\\', 'tab\\t', '"
     "\303\251\360\237\231\202\\x07\\u2028']"},
    {"{{ messages[0].content | trim }}|{{ messages[0]['content'].strip() }}|{{ messages[-1].content[1:4] }}|{{ messages[-1].content[::-1] }}|{{ me"
     "ssages[2].content[-3:] }}",
     "Hi  there|Hi  there|\303\226\303\237\346\227\245|x \360\237\231\202\346\234\254\346\227\245\303\237\303\226\303\244|\360\237\231\202 x"},
    {"{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0"
     " }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if loop.nextitem }}{{ loop.cycle('a','b') }} {% endfor %}",
     "10TrueFalse332assistanta 21FalseFalse321useruserb 32FalseTrue310assistanta "},
    {"{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {% else %}none{% endfor %}{% for x in [] %}a{% else %}empty{% "
     "endfor %}",
     "1/2 2/2 empty"},
    {"{% for k, v in messages[1].d.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in dct | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k in d"
     "ct %}{{k}}{% endfor %}{% for k, v in dct|items %}{{k}}{{v}}{% endfor %}",
     "b=2;a=1;A=2;m=[1];z=1;zAmz1A2m[1]"},
    {"{% set ns = namespace(a=1, b='x') %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% set z = i %}{% endfor %}{{ ns.a }}{{ z is defined }}{"
     "{ ns.b }}",
     "4Falsex"},
    {"{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% for i in [1] %}{% set x = 3 %}{{ x }}{% endfor %}{{ x }}",
     "232"},
    {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = (1, 2) %}{{ t }}{% set c %}block {{ a }}\n{% endset %}[{{ c }}]{% set d | upper %}abc{% endset"
     " %}{{ d }}",
     "12(1, 2)[block 1\n]ABC"},
    {"{% macro m(a, b='d', c=none) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 2) }} {{ m(1, c=3) }} {{ m(b=1, a=2) }}{{ m() }}",
     "1-d-None 1-2-None 1-d-3 2-1-None-d-None"},
    {"{% macro wrap(x) %}<{{ x }}>{{ caller() }}</{{ x }}>{% endmacro %}{% call wrap('b') %}inner {{ s }}{% endcall %}",
     "<b>inner abc,def,,g</b>"},
    {"{% macro wrap(x) %}{% for i in x %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(u) wrap([1,2]) %}[{{ u }}]{% endcall %}",
     "[1][2]"},
    {"{{ messages[1] | tojson }} {{ tools | tojson }} {{ tools | tojson(indent=2) }} {{ [] | tojson(indent=4) }} {{ {} | tojson(indent=1) }} {{ dc"
     "t|tojson(sort_keys=true) }} {{ dct|tojson(separators=(',',':')) }} {{ '\303\251'|tojson(ensure_ascii=true) }} {{ \"<'&>\" | tojson }}",
     "{\"role\": \"assistant\", \"content\": \"Hello <b>, \\\"q\\\" 's\", \"n\": 1, \"f\": 1.5, \"t\": true, \"z\": null, \"l\": [1, 2, 3], "
     "\"d\": {\"b\": 2, \"a\": 1}} [{\"type\": \"function\", \"function\": {\"name\": \"w\", \"parameters\": {\"x\": {\"y\": [1, 2.0, null, true, "
     "\"\303\251\\n\177\342\200\250\"]}}}}] [\n  {\n    \"type\": \"function\",\n    \"function\": {\n      \"name\": \"w\",\n      \"parameters"
     "\": {\n        \"x\": {\n          \"y\": [\n            1,\n            2.0,\n            null,\n            true,\n            "
     "\"\303\251\\n\177\342\200\250\"\n          ]\n        }\n      }\n    }\n  }\n] [] {} {\"A\": 2, \"m\": [1], \"z\": 1} {\"z\":1,\"A\":2,"
     "\"m\":[1]} \"\\u00e9\" \"<'&>\""},
    {"{{ tools | tojson(ensure_ascii=True, indent=3) }} {{ (1, 2) | tojson }} {{ 1.0|tojson }} {{ true|tojson }}{{ none|tojson }} {{ {1: 2, none: "
     "3, true: 4, 1.5: 5} | tojson }}",
     "[\n   {\n      \"type\": \"function\",\n      \"function\": {\n         \"name\": \"w\",\n         \"parameters\": {\n            \"x\": {"
     "\n               \"y\": [\n                  1,\n                  2.0,\n                  null,\n                  true,\n                 "
     " \"\\u00e9\\n\\u007f\\u2028\"\n               ]\n            }\n         }\n      }\n   }\n] [1, 2] 1.0 truenull {\"1\": 4, \"null\": 3, "
     "\"1.5\": 5}"},
    {"{{ undefined_thing }}{{ undefined_thing | default('d') }}{{ e | default('d') }}{{ e | default('d', true) }}{{ e | d('x', boolean=true) }}{{ "
     "messages[1].z | default('q') }}",
     "ddxNone"},
    {"{{ undefined_thing.foo }}",
     NULL},
    {"{{ messages[9].role }}",
     NULL},
    {"{{ messages[9] is defined }}{{ messages[0].foo is defined }}{{ messages[0].foo is undefined }}{{ messages[0]['foo'] is none }}{{ none is non"
     "e }}{{ messages[1].z is none }}",
     "FalseFalseTrueFalseTrueTrue"},
    {"{{ 'a' + undefined_thing }}",
     NULL},
    {"{{ 'a' + 1 }}",
     NULL},
    {"{{ 'a' + none }}",
     NULL},
    {"{{ 'a' ~ 1 ~ none ~ true ~ undefined_thing ~ 1.0 ~ [1] }}",
     "a1NoneTrue1.0[1]"},
    {"{{ s is string }}{{ s is mapping }}{{ dct is mapping }}{{ lst is sequence }}{{ s is sequence }}{{ s is iterable }}{{ 1 is iterable }}{{ none"
     " is iterable }}{{ dct is sequence }}{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ 1 is"
     " boolean }}{{ m is callable }}",
     "TrueFalseTrueTrueTrueTrueFalseFalseTrueTrueTrueFalseTrueTrueFalseTrue"},
    {"{{ 4 is even }}{{ 4 is odd }}{{ 4 is divisibleby 2 }}{{ 4 is divisibleby(3) }}{{ 1 is eq 1 }}{{ 1 is equalto(2) }}{{ 1 is not equalto 2 }}{{"
     " 'a' is in ['a'] }}{{ 3 is gt 2 }}{{ 3 is lt 2 }}{{ false is false }}{{ 0 is false }}{{ true is true }}{{ 'A' is upper }}{{ 'a' is lower }}{"
     "{ 1 is sameas 1 }}",
     "TrueFalseTrueFalseTrueFalseTrueTrueTrueFalseTrueFalseTrueTrueTrueTrue"},
    {"{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' < 'b' }}{{ [1,2] < [1,3] }}{{ [1] == [1] }}{{ {'a':1} == {'a':1} }}{{ 1 !="
     " 2 }}{{ none == none }}{{ undefined_thing == undefined2 }}{{ undefined_thing == none }}{{ not 1 == 2 }}{{ 'b' not in 'abc' }}{{ 'x' in dct }"
     "}{{ 'z' in dct }}{{ 2 in lst }}",
     "TrueFalseTrueTrueTrueTrueTrueTrueTrueTrueTrueFalseTrueFalseFalseTrueTrue"},
    {"{{ 1 < 'a' }}",
     NULL},
    {"{{ 'a' in none }}",
     NULL},
    {"{{ 1 in 'abc' }}",
     NULL},
    {"{{ true and 'x' or 'y' }}{{ '' or 'z' }}{{ none and 1 }}{{ not '' }}{{ 'a' if false }}|{{ 'a' if true else 'b' }}{{ 'x' if false else 'y' if"
     " false else 'z' }}",
     "xzNoneTrue|az"},
    {"{{ s.split(',') }}{{ s.split(',', 1) }}{{ s.rsplit(',', 1) }}{{ ' a  b '.split() }}{{ ' a  b c '.split(none, 1) }}{{ ' a  b c '.rsplit(none,"
     " 1) }}{{ ''.split(',') }}{{ ''.split() }}{{ ml.splitlines() }}{{ ml.split('\\n') }}{{ 'a--b--c'.rsplit('--') }}",
     "['abc', 'def', '', 'g']['abc', 'def,,g']['abc,def,', 'g']['a', 'b']['a', 'b c '][' a  b', 'c'][''][]['line1', '', '  line2', 'l3']['line1', "
     "'', '  line2', 'l3', '']['a', 'b', 'c']"},
    {"{{ s.startswith('abc') }}{{ s.endswith(('x','g')) }}{{ s.startswith(['a']) }}",
     NULL},
    {"{{ s.replace(',', ';') }}{{ s.replace(',', ';', 1) }}{{ s | replace(',', '') }}{{ 'abc'.replace('', '-') }}{{ '\303\251a'.replace('', '-', 2"
     ") }}{{ s|replace(',','+',2) }}",
     "abc;def;;gabc;def,,gabcdefg-a-b-c--\303\251-aabc+def+,g"},
    {"{{ 'hello wORLD-foo (bar)' | title }}|{{ 'hello wORLD foo'.title() }}|{{ 'hELLO World' | capitalize }}|{{ 'abc' | upper }}|{{ '"
     "\303\204\303\226\303\237' | lower }}|{{ '\303\244\303\266\303\237' | upper }}|{{ \"they're bill's\".title() }}|{{ 'aBc'.swapcase() }}",
     "Hello World-Foo (Bar)|Hello World Foo|Hello world|ABC|\303\244\303\266\303\237|\303\204\303\226SS|They'Re Bill'S|AbC"},
    {"{{ 'xxabcxx'.strip('x') }}{{ 'xyabc'.lstrip('xy') }}{{ 'abc\\n\\n'.rstrip('\\n') }}|{{ ' a '.lstrip() }}|{{ '\303\251a\303\251' | trim('"
     "\303\251') }}|{{ '\\u00a0a\\u3000'.strip() }}|",
     "abcabcabc|a |a|a|"},
    {"{{ names | join(', ') }}{{ [1,2,none] | join('-') }}{{ objs | join(',', attribute='v') }}{{ ','.join(names) }}{{ 'abc' | join('.') }}{{ name"
     "s|join }}",
     "b, A, c, a1-2-None2,1,3,9b,A,c,aa.b.cbAca"},
    {"{{ ','.join([1]) }}",
     NULL},
    {"{{ names | sort }}{{ names | sort(case_sensitive=true) }}{{ names | sort(reverse=true) }}{{ objs | sort(attribute='v') }}{{ lst | sort }}{{ "
     "[2,'a'] | sort }}",
     NULL},
    {"{{ names | unique | list }}{{ ['a','A','b','a'] | unique | list }}{{ objs[:3] | map(attribute='k') | unique | list }}{{ [1,1.0,2] | unique |"
     " list }}",
     "['b', 'A', 'c']['a', 'b']['x', 'Y'][1, 2]"},
    {"{{ objs | map(attribute='k') | list }}{{ objs | map(attribute='k', default='-') | list }}{{ names | map('upper') | list }}{{ names | map('re"
     "place', 'a', 'q') | join }}{{ objs | selectattr('k', 'defined') | list | length }}{{ objs | selectattr('k', 'equalto', 'x') | map(attribute="
     "'v') | list }}{{ objs | rejectattr('k', 'equalto', 'x') | list }}{{ objs|selectattr('k')|list }}{{ [0,1,2]|select|list }}{{ [0,1,2]|select('"
     "odd')|list }}{{ [0,1,2]|reject('gt', 1)|list }}",
     "['x', 'Y', 'x', Undefined]['x', 'Y', 'x', '-']['B', 'A', 'C', 'A']bAcq3[2, 3][{'k': 'Y', 'v': 1}, {'v': 9}][{'k': 'x', 'v': 2}, {'k': 'Y', '"
     "v': 1}, {'k': 'x', 'v': 3}][1, 2][1][0, 1]"},
    {"{{ names | first }}{{ names | last }}{{ [] | first }}{{ 'abc' | first }}{{ 'abc' | last }}{{ names | length }}{{ '\303\244\303\266\303\274' "
     "| length }}{{ dct | length }}{{ names | count }}{{ 'abc' | list }}{{ dct | list }}{{ 'abc' | reverse }}{{ names | reverse | list }}{{ lst|ma"
     "x }}{{ lst|min }}{{ lst|sum }}{{ objs|sum(attribute='v') }}",
     "baac4334['a', 'b', 'c']['z', 'A', 'm']cba['a', 'c', 'A', 'b']511115"},
    {"{{ '42' | int }}{{ 'x' | int }}{{ 'x' | int(5) }}{{ 3.9 | int }}{{ '3.7' | int }}{{ '2.5' | float }}{{ 'x'|float }}{{ 3|float }}{{ 2.5|round"
     " }}{{ 3.14159|round(2) }}{{ 2.7|round(0,'floor') }}{{ 2.1|round(method='ceil') }}{{ 5|round }}{{ neg|abs }}{{ -1.5|abs }}{{ 1.005|round(2) }"
     "}{{ 0.5|round }}{{ 1.5|round }}",
     "4205332.50.03.02.03.142.03.0571.51.00.02.0"},
    {"{{ ml | indent }}|{{ ml | indent(2, true) }}|{{ ml | indent(2, first=true, blank=true) }}|{{ 'a' | indent(4) }}|{{ ''|indent }}|{{ 'a\\nb'|i"
     "ndent('>> ') }}",
     "line1\n\n      line2\n    l3\n|  line1\n\n    line2\n  l3\n|  line1\n  \n    line2\n  l3\n  |a||a\n>> b"},
    {"{{ s.find('d') }}{{ s.find('q') }}{{ s.count(',') }}{{ '\303\251\303\251a'.find('a') }}{{ s.rfind(',') }}{{ 'abc'.index('c') }}{{ 'a=b=c'.pa"
     "rtition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'abc'.partition('x') }}{{ 'abc'.rpartition('x') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.remov"
     "esuffix('c') }}",
     "4-13282('a', '=', 'b=c')('a=b', '=', 'c')('abc', '', '')('', '', 'abc')bcab"},
    {"{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ ''.isdigit() }}{{ 'AB'.isupper() }}{{ 'ab1'.islower() }}",
     "TrueTrueTrueTrueFalseTrueTrue"},
    {"{{ dct.get('z') }}{{ dct.get('q') }}{{ dct.get('q', 5) }}{{ dct.keys() | list }}{{ dct.values() | list }}{{ dct.items() | list }}{{ dct['z']"
     " }}{{ dct.z }}{{ dct.q is defined }}",
     "1None5['z', 'A', 'm'][1, 2, [1]][('z', 1), ('A', 2), ('m', [1])]11False"},
    {"{{ lst + [9] }}{{ [1] * 3 }}{{ 'ab' * 2 }}{{ 2 * 'ab' }}{{ (1,) + (2,) }}{{ lst.index(2) }}{{ lst.count(1) }}",
     "[3, 1, 2, 5, 9][1, 1, 1]abababab(1, 2)21"},
    {"{{ lst[0] }}{{ lst[-1] }}{{ lst[1:] }}{{ lst[:-1] }}{{ lst[::2] }}{{ lst[::-1] }}{{ lst[10:] }}{{ lst[-10:2] }}{{ lst[2:0:-1] }}{{ 'abcdef'["
     "::2] }}{{ 'abcdef'[4:1:-2] }}{{ (1,2,3)[1:] }}{{ lst[none:2] }}",
     "35[1, 2, 5][3, 1, 2][3, 2][5, 2, 1, 3][][3, 1][2, 1]aceec(2, 3)[3, 1]"},
    {"{{ lst[::0] }}",
     NULL},
    {"{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ range(2, 10, 3) | "
     "list }}{{ range(5, 0, -2) | list }}",
     "02[2, 5, 8][5, 3, 1]"},
    {"{% raw %}{{ not }} {% if %}{% endraw %} {# comment #}x{#- c -#} y",
     "{{ not }} {% if %} xy"},
    {"  {% if true %}\n    indented\n  {% endif %}\n  {{ 'x' }}  \n  {%- if true -%}  \n   z   \n  {%- endif +%}\nend",
     "    indented\n  xz\nend"},
    {"{%+ if true %} a {%+ endif %}\n   {% if true +%}\nb\n{% endif %}\n   {#- c #}\nq\n   {# c #}\nr",
     " a \nb\nq\nr"},
    {"a\n{%- for x in [1,2] -%}\n  {{ x }}\n{%- endfor -%}\n  b",
     "a12b"},
    {"{{ raise_exception('boom ' ~ 1) }}",
     NULL},
    {"{% if messages[0].role == 'x' %}{{ 'a' | nosuchfilter }}{% endif %}ok",
     "ok"},
    {"{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}{% filter upper %}abc {{ s }}{% endfilter %}",
     "3FalseABC ABC,DEF,,G"},
    {"{% generation %}x{{ s }}{% set q = 1 %}{% endgeneration %}{{ q is defined }}",
     "xabc,def,,gFalse"},
    {"{{ 'a' 'b' \"c\" }}{{ 'x\\\ny' }}{{ '\\x41\\u00e9\\101\\q' }}",
     "abcxyA\303\251A\\q"},
    {"{{ messages | length - 1 }}{{ -lst | length if false }}{{ (messages | length) - 1 }}{{ not messages | length == 3 }}{{ -5 | abs }}{{ 5 + 3 |"
     " string }}",
     NULL},
    {"{{ 5 ~ 3 | string ~ 'x' }}{{ 'a' ~ 1 + 2 }}{{ 2 * 3 ~ 'x' }}",
     NULL},
    {"{{ namespace(a=1).a }}{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}",
     "1{'a': 1, 'b': 2}{'x': 1, 'y': 2}"},
    {"{% set ns = namespace() %}{% set ns.x = [1] %}{% set ns.x = ns.x + [2] %}{{ ns.x }}{{ ns.missing is defined }}",
     "[1, 2]False"},
    {"{% set x = {'a': 1} %}{% set x.b = 2 %}",
     NULL},
    {"{% for m in messages %}{% set role = m.role %}{% if role == 'user' %}{% set p = 'U' %}{% else %}{% set p = 'A' %}{% endif %}{{ p }}{{ prev i"
     "s defined }}{% set prev = p %}{% endfor %}{{ role is defined }}",
     "UFalseAFalseUFalseFalse"},
    {"{{ 'abc'[1] }}{{ 'abc'[5] is defined }}{{ 'abc'.foo is defined }}{{ 'abc'.upper() }}{{ none.foo is defined }}{{ (5).foo is defined }}",
     "bFalseFalseABCFalseFalse"},
    {"{{ none.foo.bar }}",
     NULL},
    {"{{ messages[1].content | e }}{{ '<b>' | escape }}{{ '<b>' | safe }}",
     "Hello &lt;b&gt;, &#34;q&#34; &#39;s&lt;b&gt;<b>"},
    {"{% for a, b in [(1,2),[3,4]] %}{{ a }}{{ b }}{% endfor %}{% for a, b in [[1]] %}{% endfor %}",
     NULL},
    {"{% for x in none %}{% endfor %}",
     NULL},
    {"{% for x in 5 %}{% endfor %}",
     NULL},
    {"{% for x in undefined_thing %}{% endfor %}ok{% for c in '\303\244b' %}[{{ c }}]{% endfor %}",
     "ok[\303\244][b]"},
    {"{{ true | string }}{{ none | string }}{{ 1.0 | string | length }}{{ undefined_thing | string }}|{{ undefined_thing | length }}{{ undefined_t"
     "hing | list }}{{ undefined_thing|trim }}{{ undefined_thing|upper }}",
     "TrueNone3|0[]"},
    {"{{ none | length }}",
     NULL},
    {"{{ none | trim }}{{ 5 | trim }}{{ none|upper }}{{ [1] | upper }}",
     "None5NONE[1]"},
    {"{{ messages[0]['role'] == \"user\" and (messages[0]['content'] is string) or false }}",
     "True"},
    {"{{ {'a': 1, 'b': [1, 2]}['b'][1] }}{{ {'a': 1}.a }}{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1, 2,) }}",
     "21[1, 2]{'a': 1}(1, 2)"},
    {"{{ 1_000 }}{{ 1_0.5 }}{{ 1.5e3 }}",
     "100010.51500.0"},
    {"{%- set s2 = namespace(v=false) -%}{%- for m in messages -%}{%- if not s2.v and m.role == 'user' -%}{%- set s2.v = true -%}{{- m.content -}}"
     "{%- endif -%}{%- endfor -%}",
     "Hi  there\n"},
    {"{{ \"a\" if messages | selectattr(\"role\", \"equalto\", \"assistant\") | list else \"b\" }}{{ messages | map(attribute=\"role\") | join("
     "\" \") }}",
     "auser assistant user"},
    {"{% if true %}{% elif 1/0 %}{% endif %}{% if false %}{% elif true %}E{% else %}F{% endif %}",
     "E"},
    {"{{ 1/0 }}",
     NULL},
    {"{{ 'a' % 'b' }}",
     NULL},
    {"{{ s is defined and s }}{{ undefined_thing is defined and undefined_thing.x }}",
     "abc,def,,gFalse"},
    {"{% macro rec(n) %}{{ n }}{% if n > 0 %}{{ rec(n - 1) }}{% endif %}{% endmacro %}{{ rec(5) }}",
     "543210"},
    {"{% set a = 1 %}{% macro m() %}{{ a }}{% endmacro %}{% set a = 2 %}{{ m() }}",
     "2"},
    {"{% for i in [1,2] %}{% for j in [3,4] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}",
     "113 214 1123 224 2"},
    {"{{ 'x' if s is string and s | length > 3 else 'y' }}{{ not s is string }}{{ s is not string }}",
     "xFalseFalse"},
    {"{{ [] is iterable }}{{ {} is iterable }}{{ s in ['abc,def,,g'] }}{{ 'abc' in s }}",
     "TrueTrueTrueTrue"},
    {"{{ ['a', 'b'] | batch(2) | list }}{{ [1,2,3]|batch(2)|list }}{{ [1,2,3]|batch(2,'x')|list }}",
     "[['a', 'b']][[1, 2], [3]][[1, 2], [3, 'x']]"},
    {"{{ dct | attr('items') is callable }}{{ dct|attr('z') is defined }}",
     "TrueFalse"},
    {"{{ loop is defined }}{{ range is defined }}",
     "FalseTrue"},
    {"{{ messages[0].content.__class__ is defined }}",
     "False"},
    {"{{ '{}-{}'.format(1, 'b') }}{{ '{1}{0}{x}'.format('a', 'b', x='c') }}{{ '{{}}{}'.format(2) }}",
     "1-bbac{}2"},
    {"{{ '{} {}'.format(1) }}",
     NULL},
    {"{{ none | selectattr('a') | list }}{{ none | map('upper') | list }}{{ 0 | select | list }}",
     "[][][]"},
    {"{% for message in messages %}{{ '<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation"
     "_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
     "<|user|>\nHi  there\n<|end|>\n<|assistant|>\nHello <b>, \"q\" 's<|end|>\n<|user|>"
     "\n\303\244\303\226\303\237\346\227\245\346\234\254\360\237\231\202 x<|end|>\n<|assistant|>\n"},
    {"{%- macro render_item_list(item_list, tag_name='required') -%}\n    {%- if item_list is defined and item_list is iterable and item_list | le"
     "ngth > 0 -%}\n        {%- if tag_name -%}{{- '\\n<' ~ tag_name ~ '>' -}}{% endif %}\n        {{- '[' }}\n        {%- for item in item_list -"
     "%}\n            {%- if loop.index > 1 %}{{- \", \"}}{% endif -%}\n            {%- if item is string -%}{{ \"`\" ~ item ~ \"`\" }}{%- else -%"
     "}{{ item }}{%- endif -%}\n        {%- endfor -%}\n        {{- ']' }}\n        {%- if tag_name -%}{{- '</' ~ tag_name ~ '>' -}}{% endif %}"
     "\n    {%- endif -%}\n{%- endmacro %}\n{{ render_item_list(names) }}{{ render_item_list(lst, tag_name=none) }}",
     "\n<required>[`b`, `A`, `c`, `a`]</required>[3, 1, 2, 5]"},
    {"{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if message.role == \"user\" and not(message.co"
     "ntent.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{{- index }}{%- endif %}{%- endfor %}",
     "20"},
    {"{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alter"
     "nate user/assistant/user/assistant/...') }}{% endif %}{{ loop.index0 }}{% endfor %}",
     "012"},
    {"{%- for message in messages %}\n    {%- if message.role != \"user\" %}\n        {{- \"<\" ~ message.role ~ \">\" }}\n    {%- endif %}\n{%- e"
     "ndfor %}\n{{- \"[AVAILABLE_TOOLS] [\" }}{% for tool in tools %}{%- set tool = tool.function %}{{- '{\"type\": \"function\", \"function\": {'"
     " }}{%- for key, val in tool.items() if key != \"return\" %}{%- if val is string %}{{- '\"' + key + '\": \"' + val + '\"' }}{%- else %}{{- '"
     "\"' + key + '\": ' + val|tojson }}{%- endif %}{%- if not loop.last %}{{- \", \" }}{%- endif %}{%- endfor %}{{- \"}}\" }}{% endfor %}",
     "<assistant>[AVAILABLE_TOOLS] [{\"type\": \"function\", \"function\": {\"name\": \"w\", \"parameters\": {\"x\": {\"y\": [1, 2.0, null, true, "
     "\"\303\251\\n\177\342\200\250\"]}}}}"},
    {"{{ 'a' | nosuchfilter }}",
     NULL},
    {"{% if x %}",
     NULL},
    {"{{ a",
     NULL},
    {"{% endfor %}",
     NULL},
    {"{{ [1, 2 }}",
     NULL},
    {"{{ 'abc }}",
     NULL},
    {"{% include 'x' %}",
     NULL},
    {"{% break %}",
     NULL},
    {"{{ 1 + }}",
     NULL},
    {"{% set 1 = 2 %}",
     NULL},
    {"{# open\n",
     NULL},
};
