BytesLike = bytes | bytearray | memoryview

ISAL_VERSION: str

class Inflater:
    def inflate(self, data: BytesLike, max_size: int, /) -> bytes: ...
    def split(
        self, buffer: BytesLike, start: int, end: int, max_size: int, out: list[bytes], /
    ) -> int: ...
