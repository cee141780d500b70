// Names for clang's thread-safety attributes; empty elsewhere.
// Floor 0, room base.
#pragma once

#if defined(__clang__)
#define PENSTOCK_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define PENSTOCK_THREAD_ATTRIBUTE(x)
#endif

#define PENSTOCK_CAPABILITY(name) PENSTOCK_THREAD_ATTRIBUTE(capability(name))
#define PENSTOCK_SCOPED_CAPABILITY PENSTOCK_THREAD_ATTRIBUTE(scoped_lockable)
#define PENSTOCK_GUARDED_BY(m) PENSTOCK_THREAD_ATTRIBUTE(guarded_by(m))
#define PENSTOCK_REQUIRES(...) PENSTOCK_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
/// Tells the analysis what it cannot see.
#define PENSTOCK_IS_HELD(...) PENSTOCK_THREAD_ATTRIBUTE(assert_capability(__VA_ARGS__))
#define PENSTOCK_ACQUIRE(...) PENSTOCK_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define PENSTOCK_RELEASE(...) PENSTOCK_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
/// For functions that give a lock they were called with up for a while, which the analysis cannot follow.
#define PENSTOCK_UNLOCKS_MEANWHILE PENSTOCK_THREAD_ATTRIBUTE(no_thread_safety_analysis)
/// For functions that must not lock: after `fork` the lock may be held for ever.
#define PENSTOCK_WITHOUT_LOCK PENSTOCK_THREAD_ATTRIBUTE(no_thread_safety_analysis)
#define PENSTOCK_EXCLUDES(...) PENSTOCK_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
