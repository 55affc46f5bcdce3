#pragma once
// For tests that ask for more memory than there is: the sanitizers' allocators would end the program instead of returning null.
// Include it in one file of a program.

extern "C" {
const char* __asan_default_options();
const char* __tsan_default_options();
const char* __asan_default_options() { return "allocator_may_return_null=1"; }
const char* __tsan_default_options() { return "allocator_may_return_null=1"; }
}
