#pragma once
/// @file dtype.hpp
/// Element types of files: their names, sizes and conversions. Files are little-endian, and so must the machine be.

#include <bit>
#include <cstring>
#include <optional>
#include <string_view>

#include <hybridmoe/core/scalar.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::io {

static_assert(std::endian::native == std::endian::little, "hybridmoe::io reads and writes little-endian files as they are");

/// The element types of safetensors.
enum class Dtype : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

struct DtypeFacts {
  Dtype dtype;
  std::string_view name;
  Index bits;
};

inline constexpr DtypeFacts dtype_facts[] = {{Dtype::boolean, "BOOL", 8},
                                             {Dtype::f4, "F4", 4},
                                             {Dtype::f6_e2m3, "F6_E2M3", 6},
                                             {Dtype::f6_e3m2, "F6_E3M2", 6},
                                             {Dtype::u8, "U8", 8},
                                             {Dtype::i8, "I8", 8},
                                             {Dtype::f8_e5m2, "F8_E5M2", 8},
                                             {Dtype::f8_e4m3, "F8_E4M3", 8},
                                             {Dtype::f8_e8m0, "F8_E8M0", 8},
                                             {Dtype::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
                                             {Dtype::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
                                             {Dtype::i16, "I16", 16},
                                             {Dtype::u16, "U16", 16},
                                             {Dtype::f16, "F16", 16},
                                             {Dtype::bf16, "BF16", 16},
                                             {Dtype::i32, "I32", 32},
                                             {Dtype::u32, "U32", 32},
                                             {Dtype::f32, "F32", 32},
                                             {Dtype::c64, "C64", 64},
                                             {Dtype::f64, "F64", 64},
                                             {Dtype::i64, "I64", 64},
                                             {Dtype::u64, "U64", 64}};

static_assert([] {
  int i = 0;
  for (const DtypeFacts& facts : dtype_facts) {
    if (static_cast<int>(facts.dtype) != i++) return false;
  }
  return i == static_cast<int>(Dtype::u64) + 1;
}());

constexpr std::string_view name_of(Dtype dtype) { return dtype_facts[static_cast<int>(dtype)].name; }
constexpr Index bits_of(Dtype dtype) { return dtype_facts[static_cast<int>(dtype)].bits; }

constexpr std::optional<Dtype> dtype_named(std::string_view name) {
  for (const DtypeFacts& facts : dtype_facts) {
    if (facts.name == name) return facts.dtype;
  }
  return std::nullopt;
}

/// The file type of a C++ type.
template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::f32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::f64;
};
template <>
struct DtypeOf<std::int8_t> {
  static constexpr Dtype value = Dtype::i8;
};
template <>
struct DtypeOf<std::uint8_t> {
  static constexpr Dtype value = Dtype::u8;
};
template <>
struct DtypeOf<std::int16_t> {
  static constexpr Dtype value = Dtype::i16;
};
template <>
struct DtypeOf<std::uint16_t> {
  static constexpr Dtype value = Dtype::u16;
};
template <>
struct DtypeOf<std::int32_t> {
  static constexpr Dtype value = Dtype::i32;
};
template <>
struct DtypeOf<std::uint32_t> {
  static constexpr Dtype value = Dtype::u32;
};
template <>
struct DtypeOf<std::int64_t> {
  static constexpr Dtype value = Dtype::i64;
};
template <>
struct DtypeOf<std::uint64_t> {
  static constexpr Dtype value = Dtype::u64;
};
template <>
struct DtypeOf<std::byte> {
  static constexpr Dtype value = Dtype::u8;
};
template <class T>
inline constexpr Dtype dtype_of = DtypeOf<std::remove_cv_t<T>>::value;

/// bfloat16 is the upper half of a float.
constexpr float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// IEEE 754 binary16, exactly; NaN keeps its payload.
constexpr float from_f16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16, magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (std::uint32_t{112} << 23)));
  const float small = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal: a whole number of 2^-24
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(small));
}

/// Whether elements stored as `stored` can be read as T: equal types, or any of F64 F32 F16 BF16 as float or double.
template <class T>
constexpr bool converts_to(Dtype stored) {
  if (stored == dtype_of<T>) return true;
  if constexpr (Scalar<T>) {
    return stored == Dtype::f32 || stored == Dtype::f64 || stored == Dtype::f16 || stored == Dtype::bf16;
  } else {
    return false;
  }
}

/// out[0 … count−1] = the elements stored at `from`; converts_to<T>(stored) must hold. F64 is rounded to nearest for float.
template <Scalar T>
void convert(Dtype stored, const std::byte* from, Index count, T* out) {
  const auto loop = [&](auto sample, auto value_of) {
    for (Index i = 0; i < count; ++i) {
      std::memcpy(&sample, from + i * static_cast<Index>(sizeof sample), sizeof sample);
      out[i] = static_cast<T>(value_of(sample));
    }
  };
  if (stored == Dtype::bf16) return loop(std::uint16_t{}, from_bf16);
  if (stored == Dtype::f16) return loop(std::uint16_t{}, from_f16);
  if (stored == Dtype::f32) return loop(float{}, [](float x) { return x; });
  loop(double{}, [](double x) { return x; });
}

}  // namespace hybridmoe::io
