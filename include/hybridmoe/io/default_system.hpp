#pragma once
/// @file default_system.hpp
/// Which System the machine has.

#if defined(__unix__) || defined(__APPLE__)
#include <hybridmoe/io/system_posix.hpp>
#else
#include <hybridmoe/io/system_stdio.hpp>
#endif

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

/// The machine's own files.
inline System& default_system() {
#if defined(__unix__) || defined(__APPLE__)
  static PosixSystem system;
#else
  static StdioSystem system;
#endif
  return system;
}

}  // namespace hybridmoe::io
