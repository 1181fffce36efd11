"""NVRTC from a file, with the methods of CuPy's that mdmcorrect/jit.py calls: another version than CuPy finds."""

from __future__ import annotations

import ctypes
from pathlib import Path


class NVRTCError(RuntimeError):
    """As CuPy's."""


class Nvrtc:
    NVRTCError = NVRTCError

    def __init__(self, library: Path) -> None:
        for builtins in library.parent.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins))  # which it looks for by name, and finds here
        self._library = ctypes.CDLL(str(library))

    def getVersion(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def createProgram(self, source: str, name: str, headers: tuple, names: tuple) -> ctypes.c_void_p:
        assert not headers
        assert not names
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        return program

    def compileProgram(self, program: ctypes.c_void_p, options: tuple[str, ...]) -> None:
        given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        self._call("nvrtcCompileProgram", program, len(options), given)

    def getProgramLog(self, program: ctypes.c_void_p) -> str:
        return self._bytes("nvrtcGetProgramLog", program).decode()

    def getCUBIN(self, program: ctypes.c_void_p) -> bytes:
        return self._bytes("nvrtcGetCUBIN", program)

    def getPTX(self, program: ctypes.c_void_p) -> bytes:
        return self._bytes("nvrtcGetPTX", program)

    def destroyProgram(self, program: ctypes.c_void_p) -> None:
        self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _bytes(self, function: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{function}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(function, program, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments: object) -> None:
        result = getattr(self._library, function)(*arguments)
        if result != 0:
            raise NVRTCError(f"{function} answers {result}")
