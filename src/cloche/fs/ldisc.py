"""The line discipline N_TTY: the processing between keys and reads, and between writes and the screen.

After termios(3) and n_tty.c.

Owns `LineDiscipline`: the attributes of a terminal, its input (lines that are complete, the line being
edited, or raw bytes), echo, and output processing. It knows no processes or files; it calls methods that a terminal
overrides (`output`, `signal_foreground`, `input_arrived`, `packet_event`).

Input without room stays in `pending` until a reader has made room.
"""

from typing import Final

from cloche.abi.ioctl import (
    TIOCPKT_DOSTOP,
    TIOCPKT_FLUSHREAD,
    TIOCPKT_IOCTL,
    TIOCPKT_NOSTOP,
    TIOCPKT_START,
    TIOCPKT_STOP,
)
from cloche.abi.signal import SIGINT, SIGQUIT, SIGTSTP
from cloche.abi.structs import pack_termios, pack_termios2, unpack_termios, unpack_termios2
from cloche.abi.termios import (
    B38400,
    BOTHER,
    CBAUD,
    CREAD,
    CS8,
    CSIZE,
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    EXTPROC,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNCR,
    INLCR,
    ISIG,
    ISTRIP,
    IUCLC,
    IUTF8,
    IXANY,
    IXON,
    NOFLSH,
    OCRNL,
    OLCUC,
    ONLCR,
    ONLRET,
    ONOCR,
    OPOST,
    PARENB,
    PARMRK,
    TABDLY,
    VEOF,
    VEOL,
    VEOL2,
    VERASE,
    VINTR,
    VKILL,
    VLNEXT,
    VMIN,
    VQUIT,
    VREPRINT,
    VSTART,
    VSTOP,
    VSUSP,
    VTIME,
    VWERASE,
    XTABS,
)
from cloche.fs.termios_codec import code_of, speed_of

BUFFER_BYTES: Final = 4096  # N_TTY_BUF_SIZE
ECHO_BYTES: Final = 4096  # echo held back while output is stopped

_DEFAULT_CC: Final = bytes([3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0])
_TAB: Final = 9
_NEWLINE: Final = 10
_RETURN: Final = 13
_BACKSPACE: Final = 8
_ERASE_ECHO: Final = b"\b \b"
# With any of these set, output characters are handled one by one.
_SLOW_OUTPUT: Final = OCRNL | ONOCR | ONLRET | OLCUC
_COOKED_INPUT: Final = ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK


class Termios:
    """The attributes of a terminal; speeds in bits per second."""

    def __init__(self) -> None:
        self.iflag: int = ICRNL | IXON
        self.oflag: int = OPOST | ONLCR
        self.cflag: int = B38400 | CS8 | CREAD
        self.lflag: int = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
        self.line: int = 0
        self.cc: bytes = _DEFAULT_CC
        self.in_speed: int = 38400
        self.out_speed: int = 38400

    def clone(self) -> "Termios":
        """A copy to change before it is set."""
        new = Termios()
        new.iflag, new.oflag, new.cflag, new.lflag = self.iflag, self.oflag, self.cflag, self.lflag
        new.line, new.cc = self.line, self.cc
        new.in_speed, new.out_speed = self.in_speed, self.out_speed
        return new

    def pack(self) -> bytes:
        """struct termios."""
        return pack_termios(self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc)

    def pack2(self) -> bytes:
        """struct termios2."""
        return pack_termios2(
            self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc, self.in_speed, self.out_speed
        )

    def load(self, data: bytes) -> None:
        """Take over a struct termios."""
        self.iflag, self.oflag, self.cflag, self.lflag, self.line, self.cc = unpack_termios(data)
        self._speeds()

    def load2(self, data: bytes) -> None:
        """Take over a struct termios2."""
        fields = unpack_termios2(data)
        self.iflag, self.oflag, self.cflag, self.lflag = fields[0], fields[1], fields[2], fields[3]
        self.line, self.cc = fields[4], fields[5]
        if self.cflag & CBAUD == BOTHER:
            self.in_speed, self.out_speed = fields[6], fields[7]
            self.cflag = self.cflag & ~CBAUD | code_of(fields[7])
        else:
            self._speeds()

    def _speeds(self) -> None:
        if self.cflag & CBAUD != BOTHER:
            self.out_speed = speed_of(self.cflag)
            self.in_speed = self.out_speed


class Line:
    """A complete line of input; `is_eof` if VEOF ended it: a NUL that only a reader in raw mode sees."""

    def __init__(self, data: bytes, *, is_eof: bool) -> None:
        self.data: bytes = data
        self.is_eof: bool = is_eof


def is_control(char: int) -> bool:
    """iscntrl(3)."""
    return char < 32 or char == 127


def is_word(char: int) -> bool:
    """Whether VWERASE counts it as part of a word (isalnum of the kernel's Latin-1 table, and `_`)."""
    if char < 128:
        return 48 <= char <= 57 or 65 <= char <= 90 or 97 <= char <= 122 or char == 95
    return char >= 0xC0 and char != 0xD7 and char != 0xF7


class LineDiscipline:
    """N_TTY of one terminal."""

    def __init__(self) -> None:
        self.termios: Termios = Termios()
        self.lines: list[Line] = []
        self.edit: bytearray = bytearray()
        self.raw: bytearray = bytearray()
        self.pending: bytearray = bytearray()
        self.line_bytes: int = 0  # of `lines`, one more for each line that is_eof
        self.is_literal_next: bool = False
        self.is_erasing: bool = False  # inside a \.../ of ECHOPRT
        self.is_stopped: bool = False  # by VSTOP
        self.is_output_off: bool = False  # by TCOOFF
        self.column: int = 0
        self.canon_column: int = 0  # column at which the line being edited began
        self.held_echo: bytearray = bytearray()
        self.special: set[int] = set()  # characters with a special function under these attributes
        self.is_cooked: bool = True
        self._derive()

    # -- what a terminal overrides -----------------------------------------------------------------------
    def output(self, data: bytes) -> None:
        """Bytes for the other side (the screen)."""
        raise NotImplementedError

    def signal_foreground(self, signo: int) -> None:
        """A signal for the foreground process group."""
        raise NotImplementedError

    def input_arrived(self) -> None:
        """Input may be available to readers."""
        raise NotImplementedError

    def output_possible(self) -> None:
        """Writers may go on."""
        raise NotImplementedError

    def flush_output(self) -> None:
        """Drop output that the other side has not received (tty_driver_flush_buffer)."""

    def packet_event(self, bits: int) -> None:
        """TIOCPKT_* for the other side, if it is in packet mode."""
        raise NotImplementedError

    # -- attributes --------------------------------------------------------------------------------------
    def _derive(self) -> None:
        """Find the characters that are special now (n_tty_set_termios's char_map)."""
        mode = self.termios
        iflag, lflag, cc = mode.iflag, mode.lflag, mode.cc
        special: set[int] = set()
        if iflag & (IGNCR | ICRNL):
            special.add(_RETURN)
        if iflag & INLCR:
            special.add(_NEWLINE)
        if lflag & ICANON:
            special.update((cc[VERASE], cc[VKILL], cc[VEOF], _NEWLINE, cc[VEOL]))
            if lflag & IEXTEN:
                special.update((cc[VWERASE], cc[VLNEXT], cc[VEOL2]))
                if lflag & ECHO:
                    special.add(cc[VREPRINT])
        if iflag & IXON:
            special.update((cc[VSTART], cc[VSTOP]))
        if lflag & ISIG:
            special.update((cc[VINTR], cc[VQUIT], cc[VSUSP]))
        special.discard(0)
        self.special = special
        self.is_cooked = iflag & _COOKED_INPUT != 0 or lflag & (ICANON | ISIG | ECHO) != 0

    def set_termios(self, new: Termios) -> None:
        """Put new attributes into force (n_tty_set_termios, pty_set_termios)."""
        old = self.termios
        new.cflag = new.cflag & ~(CSIZE | PARENB) | CS8 | CREAD
        self.termios = new
        changed = old.lflag ^ new.lflag
        if changed & EXTPROC:
            self.packet_event(TIOCPKT_IOCTL)
        old_flow = old.iflag & IXON and old.cc[VSTOP] == 19 and old.cc[VSTART] == 17
        new_flow = new.iflag & IXON and new.cc[VSTOP] == 19 and new.cc[VSTART] == 17
        if bool(old_flow) != bool(new_flow):
            self.packet_event(TIOCPKT_DOSTOP if new_flow else TIOCPKT_NOSTOP)
        if changed & ICANON:
            if new.lflag & ICANON:
                if self.raw:
                    self.line_bytes = len(self.raw)
                    is_eof = self.raw[len(self.raw) - 1] == 0
                    self.lines.append(Line(bytes(self.raw[: len(self.raw) - is_eof]), is_eof=is_eof))
                    self.raw.clear()
            else:
                for line in self.lines:
                    self.raw += line.data + b"\0" if line.is_eof else line.data
                self.raw += self.edit
                self.lines.clear()
                self.line_bytes = 0
                self.edit.clear()
            self.is_erasing = False
            self.is_literal_next = False
        self._derive()
        if old.iflag & IXON and not new.iflag & IXON and self.is_stopped:
            self.start()
        self.process()
        self.input_arrived()
        self.output_possible()

    def minimum(self) -> int:
        """VMIN."""
        return self.termios.cc[VMIN]

    def time_ns(self) -> int:
        """VTIME."""
        return self.termios.cc[VTIME] * 100_000_000

    def is_canonical(self) -> bool:
        return self.termios.lflag & ICANON != 0

    # -- flow --------------------------------------------------------------------------------------------
    def is_output_stopped(self) -> bool:
        return self.is_stopped or self.is_output_off

    def stop(self) -> None:
        """VSTOP was typed."""
        if not self.is_stopped:
            self.is_stopped = True
            self.packet_event(TIOCPKT_STOP)

    def start(self) -> None:
        """VSTART, or another character with IXANY."""
        if self.is_stopped:
            self.is_stopped = False
            if not self.is_output_off:
                self._resume_output()

    def switch_output(self, *, is_off: bool) -> None:
        """TCOOFF and TCOON."""
        if self.is_output_off == is_off:
            return
        self.is_output_off = is_off
        if is_off:
            self.packet_event(TIOCPKT_STOP)
        else:
            self.is_stopped = False
            self._resume_output()

    def _resume_output(self) -> None:
        self.packet_event(TIOCPKT_START)
        if self.held_echo:
            held = bytes(self.held_echo)
            self.held_echo.clear()
            self.output(held)
        self.output_possible()

    # -- output ------------------------------------------------------------------------------------------
    def process_output(self, data: bytes) -> bytes:
        """OPOST: process a program's output, and keep track of the column."""
        oflag = self.termios.oflag
        if not oflag & OPOST:
            return data
        if oflag & _SLOW_OUTPUT or (oflag & TABDLY == XTABS and b"\t" in data) or b"\b" in data:
            parts = [self._output_char(char) for char in data]
            return b"".join(parts)
        start = data.rfind(b"\n") + 1
        if start and oflag & ONLCR:
            self.canon_column = self.column = 0
        elif start:
            self.canon_column = self.column
        back = data.rfind(b"\r", start) + 1
        if back:
            self.canon_column = self.column = 0
            start = back
        for char in data[start:]:
            if char == _TAB:
                self.column += 8 - (self.column & 7)
            elif not is_control(char) and not self._is_continuation(char):
                self.column += 1
        return data.replace(b"\n", b"\r\n") if oflag & ONLCR else data

    def _output_char(self, char: int) -> bytes:
        """do_output_char."""
        oflag = self.termios.oflag
        if char == _NEWLINE:
            if oflag & ONLRET:
                self.column = 0
            if oflag & ONLCR:
                self.canon_column = self.column = 0
                return b"\r\n"
            self.canon_column = self.column
        elif char == _RETURN:
            if oflag & ONOCR and self.column == 0:
                return b""
            if oflag & OCRNL:
                char = _NEWLINE
                if oflag & ONLRET:
                    self.canon_column = self.column = 0
            else:
                self.canon_column = self.column = 0
        elif char == _TAB:
            spaces = 8 - (self.column & 7)
            self.column += spaces
            if oflag & TABDLY == XTABS:
                return b" " * spaces
        elif char == _BACKSPACE:
            if self.column > 0:
                self.column -= 1
        elif not is_control(char):
            if oflag & OLCUC and 97 <= char <= 122:
                char -= 32
            if not self._is_continuation(char):
                self.column += 1
        return bytes((char,))

    def _is_continuation(self, char: int) -> bool:
        return self.termios.iflag & IUTF8 != 0 and char & 0xC0 == 0x80

    # -- echo --------------------------------------------------------------------------------------------
    def _echo(self, data: bytes) -> None:
        """Echo through output processing; held while output is stopped."""
        shown = self.process_output(data)
        if self.is_output_stopped():
            if len(self.held_echo) + len(shown) <= ECHO_BYTES:
                self.held_echo += shown
        else:
            self.output(shown)

    def _echo_char(self, char: int) -> None:
        """A character, control characters as ^X with ECHOCTL (echo_char)."""
        if self.termios.lflag & ECHOCTL and is_control(char) and char != _TAB:
            self._echo(bytes((94, char ^ 64)))
        else:
            self._echo(bytes((char,)))

    def _begin_echo(self) -> None:
        """Before a character of the line is echoed: close an erasure, remember where the line began."""
        self._finish_erasing()
        if not self.edit:
            self.canon_column = self.column

    def _finish_erasing(self) -> None:
        if self.is_erasing:
            self.is_erasing = False
            self._echo(b"/")

    # -- input -------------------------------------------------------------------------------------------
    def buffered(self) -> int:
        """Bytes in the read buffer, ends of lines included (read_cnt)."""
        return self.line_bytes + len(self.edit) + len(self.raw)

    def receive(self, data: bytes) -> None:
        """Bytes have arrived from the other side."""
        self.pending += data
        self.process()

    def process(self) -> None:
        """Move pending bytes into the read buffer as far as there is room (n_tty_receive_buf_common)."""
        pending = self.pending
        had = self.line_bytes + len(self.raw)
        while pending:
            room = BUFFER_BYTES - self.buffered() - 1
            if self.termios.iflag & PARMRK:
                room = (room + 2) // 3
            if room <= 0:
                if not self.is_canonical() or self.lines:
                    break
                # A full line still accepts one character, which replaces the last, so that a newline can end it.
                if room < 0 and self.edit:
                    del self.edit[len(self.edit) - 1]
                room = 1
            if not self.is_cooked:
                piece = pending[:room]
                del pending[:room]
                self.raw += piece
                continue
            char = pending[0]
            if (
                room > 1
                and not self.is_literal_next
                and char >= 32
                and char != 127
                and char not in self.special
            ):
                count = self._plain_run(pending, room)
                if count:
                    run = bytes(pending[:count])
                    del pending[:count]
                    self._receive_run(run)
                    continue
            del pending[0]
            self._receive_char(char)
        if self.line_bytes + len(self.raw) != had:
            self.input_arrived()

    def _plain_run(self, pending: bytearray, room: int) -> int:
        """How many bytes from the start are ordinary; 0 if the mode handles every byte."""
        mode = self.termios
        if mode.iflag & (ISTRIP | IUCLC | PARMRK) or mode.lflag & EXTPROC or self.is_stopped:
            return 0
        limit = min(len(pending), room)
        special = self.special
        count = 0
        while count < limit:
            char = pending[count]
            if char < 32 or char == 127 or char in special:
                break
            count += 1
        return count

    def _receive_run(self, run: bytes) -> None:
        if self.termios.lflag & ECHO:
            self._begin_echo()
            self._echo(run)
        if self.is_canonical():
            self.edit += run
        else:
            self.raw += run

    def _put(self, char: int) -> None:
        if self.is_canonical():
            self.edit.append(char)
        else:
            self.raw.append(char)

    def _receive_char(self, char: int) -> None:
        """Handle one character."""
        mode = self.termios
        if mode.iflag & ISTRIP:
            char &= 0x7F
        if mode.iflag & IUCLC and mode.lflag & IEXTEN and 65 <= char <= 90:
            char += 32
        if self.is_literal_next:
            self.is_literal_next = False
            self._receive_plain(char)
            return
        if mode.lflag & EXTPROC:
            self._put(char)
            return
        if char in self.special:
            self._receive_special(char)
        else:
            self._restart_any()
            self._receive_plain(char)

    def _restart_any(self) -> None:
        """IXANY: any character starts the output again."""
        if self.is_stopped and not self.is_output_off and self.termios.iflag & (IXON | IXANY) == IXON | IXANY:
            self.start()

    def _receive_plain(self, char: int, *, is_newline_raw: bool = False) -> None:
        """A character that belongs to the data; a newline that was special is not shown as ^J."""
        mode = self.termios
        if mode.lflag & ECHO:
            self._begin_echo()
            if char == _NEWLINE and is_newline_raw:
                self._echo(b"\n")
            else:
                self._echo_char(char)
        if mode.iflag & PARMRK and char == 0xFF:
            self._put(char)
        self._put(char)

    def _receive_special(self, char: int) -> None:
        """n_tty_receive_char_special."""
        mode = self.termios
        iflag, lflag, cc = mode.iflag, mode.lflag, mode.cc
        if iflag & IXON:
            if char == cc[VSTART]:
                self.start()
                return
            if char == cc[VSTOP]:
                self.stop()
                return
        if lflag & ISIG:
            if char == cc[VINTR]:
                self._signal_char(SIGINT, char)
                return
            if char == cc[VQUIT]:
                self._signal_char(SIGQUIT, char)
                return
            if char == cc[VSUSP]:
                self._signal_char(SIGTSTP, char)
                return
        self._restart_any()
        if char == _RETURN:
            if iflag & IGNCR:
                return
            if iflag & ICRNL:
                char = _NEWLINE
        elif char == _NEWLINE and iflag & INLCR:
            char = _RETURN
        if not lflag & ICANON:
            self._receive_plain(char, is_newline_raw=True)
            return
        if char == cc[VERASE] or char == cc[VKILL] or (char == cc[VWERASE] and lflag & IEXTEN):
            self._erase(char)
            return
        if char == cc[VLNEXT] and lflag & IEXTEN:
            self.is_literal_next = True
            if lflag & ECHO:
                self._finish_erasing()
                if lflag & ECHOCTL:
                    self._echo(b"^\b")
            return
        if char == cc[VREPRINT] and lflag & ECHO and lflag & IEXTEN:
            self._reprint(char)
            return
        if char == _NEWLINE:
            if lflag & (ECHO | ECHONL):
                self._echo(b"\n")
            self._end_line(b"\n", is_eof=False)
            return
        if char == cc[VEOF]:
            self._end_line(b"", is_eof=True)
            return
        if char == cc[VEOL] or (char == cc[VEOL2] and lflag & IEXTEN):
            if lflag & ECHO:
                self._begin_echo()
                self._echo_char(char)
            end = bytes((char, char)) if iflag & PARMRK and char == 0xFF else bytes((char,))
            self._end_line(end, is_eof=False)
            return
        self._receive_plain(char, is_newline_raw=True)

    def _end_line(self, end: bytes, *, is_eof: bool) -> None:
        data = bytes(self.edit) + end
        self.edit.clear()
        self.lines.append(Line(data, is_eof=is_eof))
        self.line_bytes += len(data) + is_eof

    def _signal_char(self, signo: int, char: int) -> None:
        """VINTR, VQUIT, VSUSP (n_tty_receive_signal_char)."""
        mode = self.termios
        if not mode.lflag & NOFLSH:
            self.held_echo.clear()
            self.flush_output()
            self.flush_input()
        self.signal_foreground(signo)
        if mode.iflag & IXON:
            self.start()
        if mode.lflag & ECHO:
            self._echo_char(char)

    def _reprint(self, char: int) -> None:
        """VREPRINT: show the line again."""
        self._finish_erasing()
        self._echo_char(char)
        self._echo(b"\n")
        for each in bytes(self.edit):  # mypyc cannot iterate over a bytearray
            self._echo_char(each)

    def _erase(self, char: int) -> None:
        """VERASE, VWERASE and VKILL (eraser)."""
        mode = self.termios
        lflag = mode.lflag
        edit = self.edit
        if not edit:
            return
        is_single = char == mode.cc[VERASE]
        is_word_erase = not is_single and char == mode.cc[VWERASE]
        if not is_single and not is_word_erase:
            if not lflag & ECHO:
                edit.clear()
                return
            if lflag & (ECHOK | ECHOKE | ECHOE) != ECHOK | ECHOKE | ECHOE:
                edit.clear()
                self._finish_erasing()
                self._echo_char(mode.cc[VKILL])
                if lflag & ECHOK:
                    self._echo(b"\n")
                return
        has_word = False
        while edit:
            head = len(edit) - 1
            while self._is_continuation(edit[head]) and head > 0:
                head -= 1
            first = edit[head]
            if self._is_continuation(first):
                break  # erase multi-byte characters whole
            if is_word_erase:
                if is_word(first):
                    has_word = True
                elif has_word:
                    break
            gone = bytes(edit[head:])
            del edit[head:]
            if lflag & ECHO:
                self._echo_erasure(first, gone, is_single=is_single)
            if is_single:
                break
        if not edit and lflag & ECHO:
            self._finish_erasing()

    def _echo_erasure(self, first: int, gone: bytes, *, is_single: bool) -> None:
        mode = self.termios
        lflag = mode.lflag
        if lflag & ECHOPRT:
            if not self.is_erasing:
                self.is_erasing = True
                self._echo(b"\\")
            self._echo_char(first)
            for char in gone[1:]:
                self._echo(bytes((char,)))
        elif is_single and not lflag & ECHOE:
            self._echo_char(mode.cc[VERASE])
        elif first == _TAB:
            self._echo_erase_tab()
        else:
            if is_control(first) and lflag & ECHOCTL:
                self._echo(_ERASE_ECHO)
            if not is_control(first) or lflag & ECHOCTL:
                self._echo(_ERASE_ECHO)

    def _echo_erase_tab(self) -> None:
        """Go back over a tab: as many columns as it took.

        Counted from the last tab or from where the line began.
        """
        columns = 0
        after_tab = False
        for index in range(len(self.edit) - 1, -1, -1):
            char = self.edit[index]
            if char == _TAB:
                after_tab = True
                break
            if is_control(char):
                if self.termios.lflag & ECHOCTL:
                    columns += 2
            elif not self._is_continuation(char):
                columns += 1
        columns &= 7
        if not after_tab:
            columns += self.canon_column
        self._echo(b"\b" * (8 - (columns & 7)))

    def flush_input(self) -> None:
        """Forget what was typed and not yet read (TCIFLUSH)."""
        self.lines.clear()
        self.line_bytes = 0
        self.edit.clear()
        self.raw.clear()
        self.is_literal_next = False
        self.is_erasing = False
        self.packet_event(TIOCPKT_FLUSHREAD)

    # -- reading -----------------------------------------------------------------------------------------
    def available(self) -> int:
        """Bytes that a read could have now (TIOCINQ)."""
        if not self.is_canonical():
            return len(self.raw)
        total = 0
        for line in self.lines:
            total += len(line.data)
        return total

    def has_input(self, *, is_poll: bool) -> bool:
        """Whether a read would find something.

        Poll wants VMIN bytes if there is no VTIME (input_available_p).
        """
        if self.is_canonical():
            return bool(self.lines)
        need = 1
        if is_poll and self.termios.cc[VTIME] == 0 and self.termios.cc[VMIN] > 0:
            need = self.termios.cc[VMIN]
        return len(self.raw) >= need

    def peek_line(self, limit: int) -> bytes:
        """Up to `limit` bytes of the first line; `lines` is not empty."""
        return self.lines[0].data[:limit]

    def take_line(self, count: int) -> None:
        """The first `count` bytes of the first line were read; remove the line when it was read whole."""
        line = self.lines[0]
        if count >= len(line.data):
            del self.lines[0]
            self.line_bytes -= len(line.data) + line.is_eof
        else:
            line.data = line.data[count:]
            self.line_bytes -= count

    def peek_raw(self, limit: int) -> bytes:
        """Up to `limit` bytes in raw mode."""
        return bytes(self.raw[:limit])

    def take_raw(self, count: int) -> None:
        """`count` bytes have been read."""
        del self.raw[:count]
