// What the host tests in C++ demand: where a condition does not hold, its place and a message, and an end.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition, ...)                                            \
  do {                                                                   \
    if (!(condition)) {                                                  \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);        \
      std::printf(__VA_ARGS__);                                          \
      std::printf("\n");                                                 \
      std::exit(1);                                                      \
    }                                                                    \
  } while (false)
