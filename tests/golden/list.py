"""Lists every tensor of the fixtures as the safetensors package (0.8.0) sees it: file, name, type, shape, and the sum and the
weighted sum of its values in double precision. tests/io/safetensors_test.cpp compares the library with the output:
    python3 tests/golden/list.py > tests/golden/listing.txt"""
import math
import pathlib
import struct

from safetensors import deserialize

FORMATS = {"F32": "f", "F64": "d", "F16": "e", "I64": "q", "I32": "i"}

here = pathlib.Path(__file__).parent
for file in sorted(here.glob("*/*.safetensors")):
    for name, tensor in sorted(deserialize(file.read_bytes())):
        data = bytes(tensor["data"])
        if tensor["dtype"] == "BF16":  # a float's upper half
            data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
        letter = FORMATS["F32" if tensor["dtype"] == "BF16" else tensor["dtype"]]
        values = struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)
        plain = math.fsum(values)
        weighted = math.fsum((i % 97) * value for i, value in enumerate(values))
        shape = ",".join(map(str, tensor["shape"])) or "-"
        print(file.relative_to(here).as_posix(), name, tensor["dtype"], shape, f"{plain!r} {weighted!r}")
