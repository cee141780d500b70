// Which sanitizer this is built for, by the words of either compiler.
// Floor 9, room tests.
#pragma once

#if defined(__SANITIZE_THREAD__)
#define TEST_THREAD_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_THREAD_SANITIZED 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#define TEST_ADDRESS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ADDRESS_SANITIZED 1
#endif
#endif
