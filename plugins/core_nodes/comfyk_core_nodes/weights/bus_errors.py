"""Touching a mapped file beyond its end, without dying of it.

When another program makes a file shorter, the pages that are gone raise SIGBUS in whatever touches them: inside a
torch kernel, on any thread. So does a page that cannot be read, of a disk that fails or a share that is gone. No check
beforehand helps, since the file may change after it, and Python cannot handle the signal: its own handlers run
between two of its instructions, and the one in the kernel would be tried again and again before that.

So the handler is machine code, some fifty instructions that are written out here. For an address within a *guarded
range* it puts zeros in place of the rest of the range and marks the range as hit; the kernel then goes on with zeros,
and whoever guards the range looks at the mark afterwards. For any other address it calls the handler that was there
before. It stays in place meanwhile: other threads may come to the same, and a handler that is about to end the process,
such as faulthandler's, sends the signal once more. For a signal that was sent, it puts back what was there at first.
It takes no lock, no memory and no Python, and the code does not change after it is written: it comes from a file in
memory that is mapped to be read and run.

There is code for Linux on x86-64 and ARM64. Elsewhere `guard` gives None.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import struct
import sys
import threading

SLOTS = 1000
"""Ranges that can be guarded at a time."""

_ENTRY = struct.Struct("QQQ")
"""A range in the table: first address, address after the last, whether it was hit. The first entry is a header: the
number of entries that follow, the mask of a page's address."""
_TABLE, _BEFORE, _FIRST = (digit * 0x1111111111111111 for digit in (1, 2, 3))
"""In the code, in place of the addresses of the table, and of what the handler was before: lately, and at first."""

_X86_64 = bytes.fromhex(
    "837e0800"  # 00      cmpl $0, 8(%rsi)         the kernel's own signal, no process's?
    "7e7e"  # 04          jle sent
    "488b4610"  # 06      mov 16(%rsi), %rax       the address
    "49b81111111111111111"  # movabs $TABLE, %r8
    "498b08"  # 14        mov (%r8), %rcx          entries
    "4d8b4808"  # 17      mov 8(%r8), %r9          mask
    "4885c9"  # 1b  next: test %rcx, %rcx
    "744a"  # 1e          je miss
    "48ffc9"  # 20        dec %rcx
    "4983c018"  # 23      add $24, %r8
    "493b00"  # 27        cmp (%r8), %rax
    "72ef"  # 2a          jb next
    "493b4008"  # 2c      cmp 8(%r8), %rax
    "73e9"  # 30          jae next
    "49c7401001000000"  #  movq $1, 16(%r8)        hit
    "56"  # 3a            push %rsi
    "52"  # 3b            push %rdx
    "4889c7"  # 3c        mov %rax, %rdi           mmap(page,
    "4c21cf"  # 3f        and %r9, %rdi
    "498b7008"  # 42      mov 8(%r8), %rsi
    "4829fe"  # 46        sub %rdi, %rsi                end - page,
    "ba03000000"  # 49    mov $3, %edx                  PROT_READ | PROT_WRITE,
    "41ba32400000"  # 4e  mov $0x4032, %r10d            PRIVATE | FIXED | ANONYMOUS | NORESERVE,
    "4983c8ff"  # 54      or $-1, %r8                   -1,
    "4531c9"  # 58        xor %r9d, %r9d                0)
    "b809000000"  # 5b    mov $9, %eax
    "0f05"  # 60          syscall
    "5a"  # 62            pop %rdx
    "5e"  # 63            pop %rsi
    "4839f8"  # 64        cmp %rdi, %rax
    "7501"  # 67          jne miss
    "c3"  # 69            ret
    "48b82222222222222222"  # miss: movabs $BEFORE, %rax
    "488b00"  # 74        mov (%rax), %rax         the handler before: SIG_DFL, SIG_IGN, or
    "4883f801"  # 77      cmp $1, %rax
    "7607"  # 7b          jbe sent
    "bf07000000"  # 7d    mov $7, %edi
    "ffe0"  # 82          jmp *%rax                handler(SIGBUS, info, context)
    "48be3333333333333333"  # sent: movabs $FIRST, %rsi
    "bf07000000"  # 8e    mov $7, %edi             rt_sigaction(SIGBUS, first,
    "31d2"  # 93          xor %edx, %edx                NULL,
    "41ba08000000"  # 95  mov $8, %r10d                 8)
    "b80d000000"  # 9b    mov $13, %eax
    "0f05"  # a0          syscall
    "c3"  # a2            ret
    "b80f000000"  # a3 restorer: mov $15, %eax     rt_sigreturn()
    "0f05"  # a8          syscall
)
_X86_64_RESTORER = 0xA3

_ARM64 = bytes.fromhex(
    "290840b9"  # 00      ldr w9, [x1, #8]         the kernel's own signal, no process's?
    "3f010071"  # 04      cmp w9, #0
    "ad040054"  # 08      b.le sent
    "2a0840f9"  # 0c      ldr x10, [x1, #16]       the address
    "48050058"  # 10      ldr x8, TABLE
    "0b0140f9"  # 14      ldr x11, [x8]            entries
    "0c0540f9"  # 18      ldr x12, [x8, #8]        mask
    "4b0300b4"  # 1c next: cbz x11, miss
    "6b0500d1"  # 20      sub x11, x11, #1
    "08610091"  # 24      add x8, x8, #24
    "0d3940a9"  # 28      ldp x13, x14, [x8]
    "5f010deb"  # 2c      cmp x10, x13
    "63ffff54"  # 30      b.lo next
    "5f010eeb"  # 34      cmp x10, x14
    "22ffff54"  # 38      b.hs next
    "290080d2"  # 3c      mov x9, #1
    "090900f9"  # 40      str x9, [x8, #16]        hit
    "49010c8a"  # 44      and x9, x10, x12
    "ef0301aa"  # 48      mov x15, x1
    "f10302aa"  # 4c      mov x17, x2
    "e00309aa"  # 50      mov x0, x9               mmap(page,
    "c10109cb"  # 54      sub x1, x14, x9               end - page,
    "620080d2"  # 58      mov x2, #3                    PROT_READ | PROT_WRITE,
    "430688d2"  # 5c      mov x3, #0x4032               PRIVATE | FIXED | ANONYMOUS | NORESERVE,
    "04008092"  # 60      mov x4, #-1                   -1,
    "050080d2"  # 64      mov x5, #0                    0)
    "c81b80d2"  # 68      mov x8, #222
    "010000d4"  # 6c      svc #0
    "e1030faa"  # 70      mov x1, x15
    "e20311aa"  # 74      mov x2, x17
    "1f0009eb"  # 78      cmp x0, x9
    "41000054"  # 7c      b.ne miss
    "c0035fd6"  # 80      ret
    "f0010058"  # 84 miss: ldr x16, BEFORE
    "100240f9"  # 88      ldr x16, [x16]           the handler before: SIG_DFL, SIG_IGN, or
    "1f0600f1"  # 8c      cmp x16, #1
    "69000054"  # 90      b.ls sent
    "e00080d2"  # 94      mov x0, #7
    "00021fd6"  # 98      br x16                   handler(SIGBUS, info, context)
    "61010058"  # 9c sent: ldr x1, FIRST
    "e00080d2"  # a0      mov x0, #7               rt_sigaction(SIGBUS, first,
    "020080d2"  # a4      mov x2, #0                    NULL,
    "030180d2"  # a8      mov x3, #8                    8)
    "c81080d2"  # ac      mov x8, #134
    "010000d4"  # b0      svc #0
    "c0035fd6"  # b4      ret
    "1111111111111111"  # b8 TABLE
    "2222222222222222"  # c0 BEFORE
    "3333333333333333"  # c8 FIRST
)

_SIGACTION_CALL = {"x86_64": 13, "aarch64": 134}
"""The number of the system call. libc's function would not take a handler without a restorer of its own."""
_FLAGS = 0x4 | 0x08000000 | 0x10000000 | 0x40000000
"""SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_NODEFER."""
_SA_RESTORER = 0x04000000


class _Action(ctypes.Structure):
    """The kernel's `struct sigaction`."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("restorer", ctypes.c_void_p),
        ("mask", ctypes.c_uint64),
    )


class Guard:
    """The handler and its table. Raises OSError, and AttributeError, where it cannot be made."""

    def __init__(self) -> None:
        machine = platform.machine()
        self._table = mmap.mmap(-1, -(-_ENTRY.size * (SLOTS + 1) // mmap.PAGESIZE) * mmap.PAGESIZE)
        mask = -mmap.PAGESIZE % 2**64
        _ENTRY.pack_into(self._table, 0, SLOTS, mask, 0)
        self._before = _Action()
        self._first = _Action()
        self._free = list(range(SLOTS, 0, -1))
        self._lock = threading.Lock()
        self._system_call = ctypes.CDLL(None, use_errno=True).syscall
        self._number = _SIGACTION_CALL[machine]
        code = _X86_64 if machine == "x86_64" else _ARM64
        before, first = ctypes.addressof(self._before), ctypes.addressof(self._first)
        for place, address in ((_TABLE, _address(self._table)), (_BEFORE, before), (_FIRST, first)):
            code = code.replace(place.to_bytes(8, "little"), address.to_bytes(8, "little"))
        self._code = _runnable(code)
        self._sigaction(None, self._first)
        self._action = _Action(self._code, _FLAGS)
        if machine == "x86_64":
            self._action.flags |= _SA_RESTORER
            self._action.restorer = self._code + _X86_64_RESTORER
        self._install()

    def add(self, first: int, end: int) -> int | None:
        """Guard these addresses. Returns the slot, which is to be given back; None when none is left."""
        with self._lock:
            self._install()
            try:
                slot = self._free.pop()
            except IndexError:
                return None
            _ENTRY.pack_into(self._table, slot * _ENTRY.size, first, end, 0)
            return slot

    def remove(self, slot: int) -> None:
        """Give a slot back. The garbage collector may call this in the middle of `add`, so it takes no lock."""
        _ENTRY.pack_into(self._table, slot * _ENTRY.size, 0, 0, 0)
        self._free.append(slot)

    def hit(self, slot: int) -> bool:
        """Whether something touched what was not there, and got zeros."""
        return _ENTRY.unpack_from(self._table, slot * _ENTRY.size)[2] != 0

    def _install(self) -> None:
        """Be the handler, if another one took the place, as `faulthandler.enable()` does. That one is then next."""
        now = _Action()
        self._sigaction(None, now)
        if now.handler != self._code:
            ctypes.memmove(ctypes.addressof(self._before), ctypes.addressof(now), ctypes.sizeof(now))
            self._sigaction(self._action, None)

    def _sigaction(self, new: _Action | None, old: _Action | None) -> None:
        at = (None if action is None else ctypes.addressof(action) for action in (new, old))
        pointers = (ctypes.c_void_p(address) for address in at)
        size = ctypes.c_size_t(8)
        if self._system_call(ctypes.c_long(self._number), ctypes.c_long(signal.SIGBUS), *pointers, size):
            raise OSError(ctypes.get_errno(), "rt_sigaction failed")


_guard: Guard | None = None
_tried = False
_making = threading.Lock()


def guard() -> Guard | None:
    """The process's guard, made at the first call; None where there is none for this system."""
    global _guard, _tried
    with _making:
        if not _tried:
            _tried = True
            if sys.platform == "linux" and platform.machine() in _SIGACTION_CALL and sys.maxsize > 2**32:
                try:
                    _guard = Guard()
                except (OSError, AttributeError):  # a system that lets no new code run
                    _guard = None
        return _guard


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _runnable(code: bytes) -> int:
    """The address of a copy of the code that can be run and not be written to. It stays until the process ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
    )
    file = os.memfd_create("comfyk-bus-errors")
    try:
        os.write(file, code)
        address = libc.mmap(None, len(code), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file, 0)
    finally:
        os.close(file)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "memory for code was refused")
    return address
