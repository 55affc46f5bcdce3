#pragma once
/// @file version.hpp
/// The library's version, as numbers. The inline namespace in core/config.hpp repeats major and minor.

#define HYBRIDMOE_VERSION_MAJOR 0
#define HYBRIDMOE_VERSION_MINOR 1
#define HYBRIDMOE_VERSION_PATCH 0
