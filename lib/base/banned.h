/* Forced into every file of ours: functions that cannot be used safely do not compile. The word is why. */
#ifndef GENLOOP_BASE_BANNED_H
#define GENLOOP_BASE_BANNED_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <alloca.h>
#ifdef GENLOOP_USES_OPENSSL /* its headers name a parameter `rand`: a file that wraps OpenSSL is compiled with this, and gets them first */
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif
#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atof gets gmtime localtime ctime asctime rand srand system popen
#undef alloca
#pragma GCC poison alloca
#endif
