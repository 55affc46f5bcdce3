#pragma once
/// @file nothing.hpp
/// No channel mixer: blocks of one mixer only (Mamba-2, Nemotron-H).

#include <hybridmoe/layer/layer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::channel {

/// In a Block: leave the second half out.
struct Nothing {};

}  // namespace hybridmoe::channel
