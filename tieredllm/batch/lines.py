"""Read the questions of a batch as a stream: OpenAI's batch lines, JSON lines, CSV or plain text.

OpenAI's form is that of https://platform.openai.com/docs/guides/batch ("Preparing your batch
file"): `{"custom_id": "…", "method": "POST", "url": "/v1/chat/completions", "body": {…}}`.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Literal

import msgspec

from tieredllm.errors import UsageError
from tieredllm.lenient_json import NotJsonError, decode_sent
from tieredllm.serve.chat import ChatWire
from tieredllm.serve.wire import GatewayRequest, RefusedError
from tieredllm.types import Options, OutputSchema, Prompt

__all__ = ["BadLineError", "BatchLine", "Form", "Reader", "Wording", "in_shard"]

Form = Literal["json", "csv", "tsv", "text"]

MAX_LINE_BYTES = 64 * 2**20
"""The longest line that is read: what piped text may have, too."""
CHAT_URL = "/v1/chat/completions"
HASH_BYTES = 16
UTF8_BOM = b"\xef\xbb\xbf"
OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
"""The marks that UTF-16 begins with (RFC 2781, section 3.2)."""

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}|\{([A-Za-z_][\w .-]*)\}", re.DOTALL)
"""`{name}`; doubled braces are meant literally. Other braces, as in JSON, stand for themselves."""


class BadLineError(UsageError):
    """A line that cannot be asked.

    Args:
        number: its number, from 1.
        message: what is wrong, and what would be right.
    """

    def __init__(self, number: int, message: str) -> None:
        self.number = number
        super().__init__(f"line {number}: {message}")


class Wording(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch makes of each line, besides what the line says itself."""

    template: str | None = None
    """The prompt with `{field}` for the fields of a line; None: the line has its prompt."""
    system: str | None = None
    """The system prompt of lines that have none."""
    schema: OutputSchema | None = None
    """The shape of the answers to lines that name none."""


class BatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line that can be asked."""

    number: int
    """Where it begins in the input, from 1."""
    id: str
    digest: str
    """A hash of the line and of whatever else decides what is asked."""
    request: GatewayRequest


class _BatchRequest(msgspec.Struct, frozen=True):
    """OpenAI's batch line."""

    custom_id: str
    body: dict[str, Any]
    method: str = "POST"
    url: str = CHAT_URL


class Reader:
    """The lines of one input, which is read from its beginning each time.

    Args:
        file: the input; it can be rewound.
        name: what it is called, for its ending (`.csv`, `.tsv`) and for messages.
        wording: what is made of each line.
        context: what else decides what is asked, such as the profile; part of each line's hash.

    Attributes:
        undecoded: whether bytes that are not UTF-8 were replaced.
    """

    def __init__(self, file: BinaryIO, name: str, wording: Wording, context: bytes = b"") -> None:
        self._file = file
        self._name = name
        self._wording = wording
        self._wire = ChatWire()
        self._seed = hashlib.blake2b(msgspec.json.encode(wording), digest_size=HASH_BYTES)
        self._seed.update(context)
        self.undecoded = False
        self.form = self._find_form()

    def lines(
        self, wanted: Callable[[int], bool] = lambda _: True
    ) -> Iterator[BatchLine | BadLineError]:
        """Yield each line, or what is wrong with it; blank ones are passed over.

        Args:
            wanted: tells by its number whether a line is to be looked at; asked for each in turn.

        Raises:
            UsageError: the input as a whole cannot be read.
        """
        self._file.seek(0)
        if self.form in ("csv", "tsv"):
            yield from self._rows(wanted)
            return
        for number, text in self._text_lines():
            if not text.strip() or not wanted(number):
                continue
            try:
                yield self._line(number, text)
            except BadLineError as exc:
                yield exc

    def _find_form(self) -> Form:
        """Tell the form by the name, and else by the first line."""
        self._file.seek(0)
        head = self._file.read(4096)
        if head.startswith(OTHER_ENCODINGS) or b"\0" in head:
            raise UsageError(
                f"{self._name} is no UTF-8 text: convert it first, "
                "for instance with `iconv -f UTF-16 -t UTF-8`"
            )
        ending = self._name.rpartition(".")[2].lower()
        if ending in ("csv", "tsv"):
            return "csv" if ending == "csv" else "tsv"
        text = head.removeprefix(UTF8_BOM).decode("utf-8", "replace").lstrip()
        if text.startswith("{"):
            return "json"
        if ending in ("json", "jsonl", "ndjson"):
            raise UsageError(f"{self._name} holds no JSON lines: each line has to be an object")
        wanted = fields_of(self._wording.template or "")
        header = next(csv.reader(text.splitlines()[:1]), [])
        if wanted and len(header) > 1 and wanted <= {name.strip() for name in header}:
            return "csv"
        return "text"

    def _text_lines(self) -> Iterator[tuple[int, str]]:
        number = 0
        while raw := self._file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise UsageError(
                    f"line {number} of {self._name} has more than {MAX_LINE_BYTES >> 20} MB"
                )
            if number == 1:
                raw = raw.removeprefix(UTF8_BOM)
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                text, self.undecoded = raw.decode("utf-8", "replace"), True
            yield number, text

    def _line(self, number: int, text: str) -> BatchLine:
        text = text.rstrip("\r\n")
        if self.form == "text":
            return self._asked(number, None, {"text": text, "input": text, "prompt": text}, text)
        try:
            value = decode_sent(text)
        except NotJsonError as exc:
            raise BadLineError(number, f"it is no JSON ({exc})") from exc
        if not isinstance(value, dict):
            raise BadLineError(number, 'it has to be an object, such as {"id": "1", "prompt": "…"}')
        if isinstance(value.get("body"), dict) and "prompt" not in value:
            return self._openai(number, value, text)
        return self._asked(number, value.get("id", value.get("custom_id")), value, text)

    def _rows(self, wanted: Callable[[int], bool]) -> Iterator[BatchLine | BadLineError]:
        """Read the rows of a CSV file, whose cells may have line breaks (RFC 4180)."""
        csv.field_size_limit(MAX_LINE_BYTES)
        delimiter = "\t" if self.form == "tsv" else ","
        # Strict: a quote that is never closed would make one cell of all the lines after it.
        lines = (text for _, text in self._text_lines())
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        number = 1
        try:
            for row in reader:
                begins, number = number, reader.line_num + 1
                if not any(cell.strip() for cell in row):
                    continue
                if header is None:
                    header = [name.strip() for name in row]
                    if twice := {name for name in header if header.count(name) > 1}:
                        raise UsageError(f"{self._name}: the header names {min(twice)!r} twice")
                    continue
                if not wanted(begins):
                    continue
                if len(row) != len(header):
                    reason = f"it has {len(row)} cells; the header has {len(header)}"
                    yield BadLineError(begins, reason)
                    continue
                fields = dict(zip(header, row, strict=True))
                try:
                    yield self._asked(begins, fields.get("id"), fields, "\x1f".join(row))
                except BadLineError as exc:
                    yield exc
        except csv.Error as exc:
            raise UsageError(f"line {number} of {self._name} is no CSV: {exc}") from exc

    def _openai(self, number: int, value: dict[str, Any], text: str) -> BatchLine:
        if self._wording.template is not None:
            raise BadLineError(number, "it is a whole request: --prompt is for lines of fields")
        try:
            given = msgspec.convert(value, _BatchRequest)
        except msgspec.ValidationError as exc:
            raise BadLineError(number, str(exc)) from exc
        if given.url != CHAT_URL:
            raise BadLineError(number, f"its url is {given.url!r}; only {CHAT_URL} is answered")
        try:
            request = self._wire.read(given.body)
        except RefusedError as exc:
            raise BadLineError(number, exc.message) from exc
        return self._made(number, given.custom_id, request, text)

    def _asked(
        self, number: int, identifier: Any, fields: Mapping[str, Any], text: str
    ) -> BatchLine:
        """Make a request of a line's fields."""
        if isinstance(identifier, bool) or not isinstance(identifier, str | int | float | None):
            raise BadLineError(number, "its id has to be a text or a number")
        template, given = self._wording.template, fields.get("prompt")
        if template is not None:
            prompt = Prompt(question=_filled(template, fields, number))
        elif isinstance(given, str):
            prompt = Prompt(question=given)
        elif isinstance(given, list):
            try:
                prompt = self._wire.read({"model": "auto", "messages": given}).prompt
            except RefusedError as exc:
                raise BadLineError(number, f"its prompt is no conversation: {exc}") from exc
        else:
            names = ", ".join(map(str, fields)) or "none"
            raise BadLineError(
                number,
                f"it has no `prompt`, and --prompt says not what to make of its fields ({names})",
            )
        system = fields.get("system")
        if isinstance(system, str) and system.strip() and template is None:
            prompt = msgspec.structs.replace(prompt, system=system)
        if prompt.is_empty:
            raise BadLineError(number, "its prompt is empty")
        request = GatewayRequest(model="auto", prompt=prompt, options=Options())
        return self._made(
            number, str(number) if identifier is None else str(identifier), request, text
        )

    def _made(self, number: int, identifier: str, request: GatewayRequest, text: str) -> BatchLine:
        if not identifier.strip():
            raise BadLineError(number, "its id is empty")
        wording = self._wording
        prompt, options = request.prompt, request.options
        if prompt.system is None and wording.system is not None:
            prompt = msgspec.structs.replace(prompt, system=wording.system)
        if options.schema is None and wording.schema is not None:
            options = msgspec.structs.replace(options, schema=wording.schema)
        digest = self._seed.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return BatchLine(
            number=number,
            id=identifier,
            digest=digest.hexdigest(),
            request=msgspec.structs.replace(request, prompt=prompt, options=options),
        )


def fields_of(template: str) -> set[str]:
    """Return the fields that a template names."""
    return {found[2].strip() for found in _PLACEHOLDER.finditer(template) if found[2] is not None}


def _filled(template: str, fields: Mapping[str, Any], number: int) -> str:
    """Put a line's fields into the template; what is no text is written as JSON.

    Raises:
        BadLineError: the line lacks one.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] is not None:
            return f"{{{found[1]}}}"
        name = found[2].strip()
        if name not in fields:
            having = ", ".join(map(str, fields)) or "none"
            raise BadLineError(number, f"it has no field {name!r}; it has {having}")
        field = fields[name]
        return field if isinstance(field, str) else msgspec.json.encode(field).decode()

    return _PLACEHOLDER.sub(value, template)


def in_shard(identifier: str, shard: tuple[int, int] | None) -> bool:
    """Whether a line belongs to a part of the batch, by a hash of its id.

    Args:
        identifier: the line's id.
        shard: the part's number, from 1, and how many there are; None for all of it.
    """
    if shard is None:
        return True
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % shard[1] == shard[0] - 1
