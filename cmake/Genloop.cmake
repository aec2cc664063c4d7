# How every target of the tree is built: one set of warnings, one way to name a library, a service and a test.
# A folder's sources are globbed, so that adding a file is adding a file.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
foreach(dep IN ITEMS libuv jansson yaml-0.1 libzmq libprotobuf-c rdkafka hiredis sqlite3 libsodium libcurl libzstd zlib
                     libutf8proc openssl libnghttp2 libpcre2-8)
  string(REGEX REPLACE "[^a-zA-Z0-9]" "_" var ${dep})
  pkg_check_modules(${var} REQUIRED IMPORTED_TARGET ${dep})
endforeach()

add_library(genloop_flags INTERFACE)
target_compile_definitions(genloop_flags INTERFACE _GNU_SOURCE GENLOOP_VERSION="${PROJECT_VERSION}")
target_include_directories(genloop_flags INTERFACE ${CMAKE_SOURCE_DIR}/lib ${CMAKE_BINARY_DIR}/proto)
target_link_libraries(genloop_flags INTERFACE Threads::Threads m)
# -ffp-contract=off: a result must not depend on which file the compiler found a chance to fuse in; kernels say fma where they mean it.
target_compile_options(genloop_flags INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Werror -Wvla -Wmissing-prototypes -Wstrict-prototypes -Wformat=2
  -fno-strict-aliasing -fno-common -ffp-contract=off -fvisibility=hidden -ffunction-sections -fdata-sections
  -include ${CMAKE_SOURCE_DIR}/lib/base/banned.h)
target_link_options(genloop_flags INTERFACE -Wl,--gc-sections -Wl,--as-needed)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_options(genloop_flags INTERFACE -O2 -g1 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE)
  target_link_options(genloop_flags INTERFACE -pie -Wl,-z,relro,-z,now -Wl,--compress-debug-sections=zlib) # line numbers for a backtrace are a third of a program, kernels' most of all
endif()
if(GENLOOP_SANITIZE)
  target_compile_options(genloop_flags INTERFACE -fsanitize=${GENLOOP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(genloop_flags INTERFACE -fsanitize=${GENLOOP_SANITIZE})
endif()
if(GENLOOP_COVERAGE)
  target_compile_options(genloop_flags INTERFACE --coverage)
  target_link_options(genloop_flags INTERFACE --coverage)
endif()

# genloop_library(NAME [DEPENDS lib...]): the static library genloop_NAME of this folder's .c files.
function(genloop_library name)
  cmake_parse_arguments(A "" "" "DEPENDS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  if(NOT sources)
    add_library(genloop_${name} INTERFACE)
    target_link_libraries(genloop_${name} INTERFACE genloop_flags ${A_DEPENDS})
  else()
    add_library(genloop_${name} STATIC ${sources})
    target_link_libraries(genloop_${name} PUBLIC genloop_flags ${A_DEPENDS})
  endif()
endfunction()

# genloop_executable(NAME [DEPENDS lib...]): an executable of this folder's .c files in build/bin, where it has a main.c.
function(genloop_executable name)
  cmake_parse_arguments(A "" "" "DEPENDS" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/main.c)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE genloop_flags ${A_DEPENDS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# genloop_isa(FILE FLAGS...): compile FILE, where it exists, for one instruction set; the dispatch table decides whether it runs.
function(genloop_isa file)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    # Kernels take no bytes from outside, and clang needs minutes to instrument them. Where so much is inlined, lines for a debugger are larger than the code.
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${ARGN};$<$<CONFIG:Release>:-g0>;$<$<BOOL:${GENLOOP_FUZZ}>:-fno-sanitize=all>")
  endif()
endfunction()
