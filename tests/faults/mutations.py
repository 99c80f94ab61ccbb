"""Changes that turn a sound file into a hostile one; what is drawn comes from the `Random` that is handed in.

Structured changes know the format and keep its checksums and lengths in order, so that what they plant reaches the
reader behind the first check; byte changes know nothing.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
TEXTS = (
    *("", " ", "0", "-1", "1e999", "-1e999", "nan", "inf", "-inf", "1e-400", "0x10", "1_000", "½", "٣", "1,5", "-0"),
    *("9" * 30, "9" * 5000, "1e8", "-1e8", "1e308", "99999999", "0.1.2", "true", "null", "~", "yes", "[]", "{}"),
    *("\0", "a\0b.png", "\ufeff", "\u202e", "\ud7ff", "é", "🐈", "x" * 300, "x" * 5000, "\t", "\r", "\n", "\r\n", '"'),
    *("../a.png", "../../../../etc/passwd", "/etc/passwd", "C:\\a.png", "\\\\host\\a.png", "..\\a.png", ".", ".."),
    *("a/../a.png", "a.png/", "./a.png", "A.PNG", "%2e%2e/a.png", "~/a.png", "file:///etc/passwd", "/dev/zero"),
    *("a.tar/0+100/a.png", "train-0.tar/512+100/a.png", "a.tar/" + "9" * 300 + "+1/a.png"),
    *("&a;", "<", ">", "&", "]]>", "<![CDATA[", "*a", "&a ", "!!python/object/apply:os.system ", "? ", "- ", ": "),
    *("'", "\\", "#", "%", "@", "`", "{", "}", "[", "]", ",", ";", "#12345", "#GGGGGG", "#000000"),
)
# text that stands in the file as it is, where `json.dumps` could not write it
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "0." + "0" * 5000 + "1", "-0", "1E5", "01", "+1"),
    *("[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 100_000, '"\\ud800"', '"\\u0000"', '"a\\u0000.png"', "'a'"),
    *('"\\ud800.png"', "undefined", "", "1 2", "/* */ 1", "18446744073709551616", "1e15", "2147483648", "-2147483649"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 1e8, -1e8, 1e308, 0.5, -0.0),
    *([], {}, [[]], {"a": 1}, [None], [0, 0, 0, 0], [1, 2, 3], [1, 2, 3, 4, 5], ["1", "2", "3", "4"], "a", ""),
    *({"size": [18, 24], "counts": [432]}, {"size": [10**6, 10**6], "counts": [10**12]}, {"counts": "0" * 1000}),
    *({"size": [18, 24], "counts": "n=0o"}, {"size": [18, 24], "counts": "oooooooooooooooo"}, [[1e8] * 6], [[0.0] * 6]),
    *([[5, 5, 5, 5, 5, 5]], [[1, 1, 2]], [[10**400] * 6], [[True] * 6], [[-20.0, -10, 40, 30, 3, 3]]),
)
_TOKEN = re.compile(r"\s+|[A-Za-z_]+|-?\d+(?:\.\d+)?|.", re.DOTALL)


def several(random: Random, change: Callable[[], None], most: int = 4) -> None:
    """Make one change, or a few."""
    for _ in range(random.choice((1, 1, 1, 2, most))):
        change()


def mutate_text(text: str, random: Random) -> bytes:
    """Change words, numbers and signs of any text."""
    tokens = _TOKEN.findall(text)

    def change() -> None:
        i, j = (random.randrange(len(tokens)) for _ in range(2)) if tokens else (0, 0)
        kind = random.randrange(7)
        if kind == 0:
            tokens[i:i] = [random.choice(TEXTS)]
        elif kind == 1 and tokens:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif kind == 2:
            del tokens[i : i + random.choice((1, 1, 2, 5, 40))]
        elif kind == 3:
            tokens[j:j] = tokens[i : i + random.randrange(1, 30)] * random.choice((1, 1, 2, 50))
        elif tokens:
            tokens[i] = random.choice(TEXTS)

    several(random, change, 8)
    data = "".join(tokens).encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        return random.choice((data.decode("utf-8", "replace").encode("utf-16"), b"\xef\xbb\xbf" + data, b"\xff" + data))
    return mutate_bytes(data, random) if random.random() < 0.2 else data


def mutate_json(value: Any, random: Random) -> bytes:
    """Change values, keys and the nesting of a JSON document."""
    document = json.loads(json.dumps(value))
    raw: list[str] = []

    def hostile() -> Any:
        kind = random.randrange(4)
        if kind == 0:
            raw.append(random.choice(RAW))
            return f"@raw {len(raw) - 1}@"
        return random.choice(TEXTS) if kind == 1 else json.loads(json.dumps(random.choice(VALUES)))

    def change() -> None:
        nonlocal document
        places = list(_places(document))
        if not places or random.random() < 0.02:
            document = hostile()
            return
        holder, key = random.choice(places)
        other, other_key = random.choice(places)
        kind = random.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder[key:key] = [json.loads(json.dumps(holder[key]))] * random.choice((1, 2, 100))
        elif kind == 3:
            holder[key] = random.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
        elif kind == 4:
            holder[key] = json.loads(json.dumps(other[other_key]))
        elif kind == 5 and isinstance(holder[key], int | float):
            holder[key] = random.choice(
                (-holder[key], holder[key] * 1_000_000, holder[key] + 1, repr(holder[key])[:20])
            )
        else:
            holder[key] = hostile()

    several(random, change)
    text = json.dumps(document, ensure_ascii=random.random() < 0.5)
    for i, form in enumerate(raw):
        text = text.replace(f'"@raw {i}@"', form)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, random) if random.random() < 0.1 else data


def _places(value: Any) -> Any:
    """Yield every (holder, key) below a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Flip, cut, insert, repeat and overwrite, whatever the bytes mean."""
    changed = bytearray(data)

    def change() -> None:
        i = random.randrange(len(changed) + 1)
        kind = random.randrange(7)
        if kind == 0:
            del changed[i:]
        elif kind == 1:
            del changed[i : i + random.choice((1, 2, 4, 16, 100))]
        elif kind == 2:
            changed[i:i] = random.randbytes(random.choice((1, 2, 4, 16)))
        elif kind == 3:
            changed[i:i] = changed[i : i + random.randrange(1, 64)] * random.choice((1, 2, 20))
        elif kind == 4 and i < len(changed):
            changed[i] ^= 1 << random.randrange(8)
        elif kind == 5:
            form = random.choice((">I", "<I", ">H", "<H"))
            bits = struct.calcsize(form) * 8
            value = struct.pack(form, random.choice(NUMBERS) % 2**bits)
            changed[i : i + len(value)] = value
        else:
            changed[i : i + 1] = bytes([random.choice((0, 1, 127, 128, 255, random.randrange(256)))])

    several(random, change, 12)
    return bytes(changed)


def mutate_png(data: bytes, random: Random) -> bytes:
    """Change chunks, with checksums that hold."""
    if random.random() < 0.25:
        return mutate_bytes(data, random)
    chunks = _png_chunks(data)

    def change() -> None:
        i, j = (random.randrange(len(chunks)) for _ in range(2)) if chunks else (0, 0)
        kind = random.randrange(8)
        if kind == 0:
            chunks[j:j] = [random.choice(HOSTILE_CHUNKS)()]
        elif not chunks:
            return
        elif kind == 1:
            del chunks[i]
        elif kind == 2:
            chunks[i], chunks[j] = chunks[j], chunks[i]
        elif kind == 3:
            chunks[j:j] = [chunks[i]] * random.choice((1, 2, 50))
        elif kind == 4:
            name = bytearray(chunks[i][0])
            name[random.randrange(4)] ^= 0x20
            chunks[i] = (bytes(name), chunks[i][1])
        elif kind == 5 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
            fields = list(struct.unpack(">II5B", chunks[0][1]))
            place = random.randrange(7)
            fields[place] = random.choice(NUMBERS) if place < 2 else random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            chunks[0] = (b"IHDR", struct.pack(">II5B", *fields))
        elif kind == 6 and chunks[i][0] == b"IDAT":
            chunks[i] = (b"IDAT", _recompressed(chunks[i][1], random))
        else:
            chunks[i] = (chunks[i][0], mutate_bytes(chunks[i][1], random))

    several(random, change)
    return data[:8] + b"".join(_png_chunk(*chunk) for chunk in chunks)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        chunks.append((name, data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _recompressed(data: bytes, random: Random) -> bytes:
    """Change the rows below the compression."""
    try:
        rows = zlib.decompress(data)
    except zlib.error:
        return mutate_bytes(data, random)
    return zlib.compress(mutate_bytes(rows, random), random.randrange(10))


def _zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


HOSTILE_CHUNKS: tuple[Callable[[], tuple[bytes, bytes]], ...] = (
    lambda: (b"zTXt", b"Comment\0\0" + _zeros(60_000_000)),
    lambda: (b"iTXt", b"Comment\0\1\0\0\0" + _zeros(60_000_000)),
    lambda: (b"iCCP", b"profile\0\0" + _zeros(60_000_000)),
    lambda: (b"tEXt", b"Comment\0" + b"x" * 100_000),
    lambda: (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    lambda: (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0"),
    lambda: (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x05\xff\xff\xff\xff\0\0\0\x08" * 9),
    lambda: (b"eXIf", b"garbage"),
    lambda: (b"acTL", struct.pack(">II", 2**31, 0)),
    lambda: (b"acTL", struct.pack(">II", 2, 1)),
    lambda: (b"fcTL", struct.pack(">IIIIIHHBB", 0, 10**6, 10**6, 0, 0, 1, 1, 0, 0)),
    lambda: (b"tRNS", bytes(300)),
    lambda: (b"tRNS", b"\0\0"),
    lambda: (b"PLTE", bytes(768)),
    lambda: (b"PLTE", b"\1\2"),
    lambda: (b"gAMA", bytes(4)),
    lambda: (b"cHRM", b"\0"),
    lambda: (b"pHYs", b"\0"),
    lambda: (b"IDAT", _zeros(60_000_000)),
    lambda: (b"IEND", b""),
)


def mutate_jpeg(data: bytes, random: Random) -> bytes:
    """Change segments before the scan, and bytes anywhere."""
    if random.random() < 0.3:
        return mutate_bytes(data, random)
    segments, scan = _jpeg_segments(data)

    def change() -> None:
        nonlocal scan
        i, j = (random.randrange(len(segments)) for _ in range(2)) if segments else (0, 0)
        kind = random.randrange(8)
        if kind == 0:
            segments[j:j] = [random.choice(HOSTILE_SEGMENTS)]
        elif kind == 1:
            scan = mutate_bytes(scan, random)
        elif not segments:
            return
        elif kind == 2:
            del segments[i]
        elif kind == 3:
            segments[i], segments[j] = segments[j], segments[i]
        elif kind == 4:
            segments[j:j] = [segments[i]] * random.choice((1, 2, 50))
        elif kind == 5:
            frame = next((n for n, (marker, _) in enumerate(segments) if 0xC0 <= marker <= 0xC2), None)
            if frame is not None:
                body = bytearray(segments[frame][1])
                body[1:5] = struct.pack(">HH", *(random.choice((0, 1, 17, 24, 4000, 9999, 65535)) for _ in range(2)))
                segments[frame] = (segments[frame][0], bytes(body))
        elif kind == 6:
            segments[i] = (random.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xD8, 0xDB, 0xE1, 0xEE, 0xFE)), segments[i][1])
        else:
            segments[i] = (segments[i][0], mutate_bytes(segments[i][1], random))

    several(random, change)
    head = b"".join(struct.pack(">BBH", 255, marker, len(body[:65000]) + 2) + body[:65000] for marker, body in segments)
    return data[:2] + head + scan


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    segments, place = [], 2
    while place + 4 <= len(data):
        _, marker, length = struct.unpack_from(">BBH", data, place)
        if marker == 0xDA:
            break
        segments.append((marker, data[place + 4 : place + 2 + length]))
        place += 2 + length
    return segments, data[place:]


HOSTILE_SEGMENTS = (
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0"),
    (0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"),
    (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff\0\x06\0\0" * 9),
    (0xE1, b"Exif\0\0garbage"),
    (0xE1, b"Exif\0\0"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='6"),
    (0xE2, b"MPF\0II*\0\x08\0\0\0\x02\0\1\xb0\4\0\1\0\0\0\xff\xff\xff\xff\2\xb0\7\0\x20\0\0\0\x08\0\0\0\0\0\0\0"),
    (0xE2, b"ICC_PROFILE\0\1\xff" + bytes(100)),
    (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
    (0xEE, b"Adobe\0\x64\0\0\0\0\2"),
    (0xDD, b"\0\4\0\1"),
    (0xFE, b"x" * 60000),
)


def mutate_tiff(data: bytes, random: Random) -> bytes:
    """Change entries of the first directory, and bytes anywhere."""
    order = "<" if data[:2] == b"II" else ">"
    if random.random() < 0.25 or data[2:4] not in (b"*\0", b"\0*"):
        return mutate_bytes(data, random)
    changed = bytearray(data)

    def change() -> None:
        (start,) = struct.unpack_from(order + "I", changed, 4)
        if start + 2 > len(changed):
            return
        (count,) = struct.unpack_from(order + "H", changed, start)
        entries = [start + 2 + 12 * n for n in range(count) if start + 14 + 12 * n <= len(changed)]
        if not entries:
            return
        place = random.choice(entries)
        kind = random.randrange(8)
        if kind == 0:
            struct.pack_into(order + "H", changed, place, random.choice(_TIFF_TAGS))
        elif kind == 1:
            struct.pack_into(
                order + "H", changed, place + 2, random.choice((0, 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 16, 99))
            )
        elif kind == 2:
            struct.pack_into(order + "I", changed, place + 4, random.choice(NUMBERS))
        elif kind == 3:
            end = start + 2 + 12 * count
            if end + 4 <= len(changed):  # the next directory: this one again, or anything
                struct.pack_into(order + "I", changed, end, random.choice((start, 8, 4, len(changed) - 1, 2**32 - 1)))
        elif kind == 4:
            struct.pack_into(order + "H", changed, start, random.choice((0, 1, count - 1, count + 1, 65535)) % 65536)
        elif kind == 5:
            struct.pack_into(order + "H", changed, place + 8, random.choice(NUMBERS) % 65536)
        else:
            struct.pack_into(order + "I", changed, place + 8, random.choice((*NUMBERS, start, len(changed))))

    several(random, change)
    return mutate_bytes(bytes(changed), random) if random.random() < 0.1 else bytes(changed)


_TIFF_TAGS = (
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339),
    *(347, 513, 514, 529, 530, 700, 33432, 33550, 33723, 33922, 34264, 34377, 34665, 34675, 34735, 34853, 42112, 42113),
)


def mutate_tar(data: bytes, random: Random) -> bytes:
    """Change headers, with checksums that hold, and the order of blocks."""
    if random.random() < 0.2:
        return mutate_bytes(data, random)
    changed = bytearray(data)
    headers = [place for place in range(0, len(data) - 511, 512) if data[place + 257 : place + 262] == b"ustar"]

    def change() -> None:
        place = random.choice(headers)
        if place + 512 > len(changed):
            return
        kind = random.randrange(7)
        if kind == 0:
            _fill(changed, place, 100, random.choice(TEXTS).encode("utf-8", "replace"))
        elif kind == 1:
            _fill(changed, place + 157, 100, random.choice(TEXTS).encode("utf-8", "replace"))
        elif kind == 2:
            _fill(changed, place + 124, 12, random.choice((b"%011o" % random.choice(NUMBERS), *_TAR_SIZES)))
        elif kind == 3:
            changed[place + 156 : place + 157] = random.choice((*b"01234567xgLKSDMV\0",)).to_bytes(1, "big")
        elif kind == 4:
            field, length = random.choice(((100, 8), (108, 8), (136, 12), (257, 8), (265, 32), (329, 8), (345, 155)))
            _fill(changed, place + field, length, random.randbytes(length))
        elif kind == 5:
            changed[place:place] = changed[place : place + 512 * random.choice((1, 2, 3))] * random.choice((1, 50))
            return
        else:
            del changed[random.randrange(len(changed)) :]
            return
        changed[place + 148 : place + 156] = b" " * 8
        changed[place + 148 : place + 156] = b"%06o\0 " % sum(changed[place : place + 512])

    several(random, change)
    return bytes(changed)


def _fill(data: bytearray, place: int, length: int, value: bytes) -> None:
    data[place : place + length] = value[:length].ljust(length, b"\0")


_TAR_SIZES = (
    *(b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, b"\xff" * 12, b"\xff" * 11 + b"\0", b"\x80" + b"\xff" * 11),
    *(b"-0000000001", b"99999999999", b"x", b"", b"77777777777\0"),
)
