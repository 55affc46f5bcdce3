#pragma once
/// @file safetensors.hpp
/// Safetensors files, read and written. The format: eight bytes of header size (little-endian), a JSON header, the tensors' data.

#include <hybridmoe/io/safetensors_reader.hpp>
#include <hybridmoe/io/safetensors_writer.hpp>
