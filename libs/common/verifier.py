"""Checks what Wattring has attested, without Wattring: this one file, Python 3.11 or newer, and ``cryptography``.

    python verifier.py proof.json --key carbon.pub [--witness head.json] [--file report.pdf] [--lang zh]

It reads JSON documents (proofs, tree heads, chains), takes nothing in them for granted, and says in words what they
prove and what they do not. Exit code 0: everything holds; 1: something does not; 2: something could not be read.

What there is to check:

* A *leaf* is a canonical JSON text (sorted keys, compact, UTF-8, no fractions, a random ``salt``) about one subject.
  Its commitment is the SHA-256 of that text; ``previous`` is the commitment of the same subject's leaf before it.
* The commitments of one civil day are the leaves of a Merkle tree (RFC 6962: leaf ``SHA256(0x00 || d)``, node
  ``SHA256(0x01 || left || right)``). A *head* is the tree's size and root at a time, signed with Ed25519 under the
  key that it names.
* The last head of a day, marked ``final``, is leaf 0 of the next tree.

The checks follow RFC 9162, 2.1.3.2 and 2.1.4.2.
"""

import argparse
import base64
import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

HEAD_KIND = "tree_head"
"""What a signed head calls itself, so that its signature stands for nothing else."""
CALLBACK = "wattring.attestation.head.v1"
"""Type of the call that brings a head to a witness; the head is its ``data``."""
GENESIS = "0" * 64
"""Stands before the first leaf of a subject."""
DOCUMENT_BYTES = 64 << 20
"""A document that is larger is not read. [B]"""
PATH_HASHES = 64
"""No proof of a tree that anybody can have is longer."""
HEAD_FIELDS = ("at", "final", "key", "kind", "root", "size", "tree")


class Unsound(Exception):
    """Something does not hold."""

    def __init__(self, english: str, chinese: str) -> None:
        """Say what, in two languages."""
        super().__init__(english)
        self.english = english
        self.chinese = chinese


class Unreadable(Unsound):
    """Something is not what it says it is, so nothing can be said of it."""


class Said(NamedTuple):
    """One sentence of the judgement."""

    mark: str
    """``ok``, ``bad``, ``no`` (not proved) or blank."""
    english: str
    chinese: str


@dataclass(frozen=True)
class Head:
    """A signed tree head."""

    tree: str
    """Civil day of the tree, ``YYYY-MM-DD``."""
    size: int
    root: bytes
    at: str
    """When it was signed, as the signer says. RFC 3339."""
    final: bool
    """Whether the tree was closed with it."""
    key: bytes
    """SHA-256 of the public key that it is signed under."""
    signature: str

    @classmethod
    def read(cls, raw: object) -> "Head":
        """Read a head.

        Raises:
            Unreadable: It is none.
        """
        if isinstance(raw, Mapping) and raw.get("kind") == HEAD_KIND and set(raw) == {*HEAD_FIELDS, "signature"}:
            tree, size, at, final, signature = (raw[name] for name in ("tree", "size", "at", "final", "signature"))
            if (
                all(isinstance(text, str) for text in (tree, at, signature))
                and _is_count(size)
                and isinstance(final, bool)
            ):
                return cls(tree, size, _hash(raw["root"]), at, final, _hash(raw["key"]), signature)
        raise Unreadable("a tree head cannot be read", "树头无法读取")

    @property
    def place(self) -> tuple[str, int]:
        """What the head is of."""
        return self.tree, self.size

    def contradicts(self, other: "Head") -> bool:
        """Return whether no honest log has both: one size and two roots, or a tree that grew when it was closed."""
        if self.tree != other.tree:
            return False
        if self.size == other.size:
            return self.root != other.root
        return self.final if self.size < other.size else other.final

    def signed_bytes(self) -> bytes:
        """Return what the signature is over."""
        return canonical(self.as_json())

    def as_json(self) -> dict[str, object]:
        """Return the head as it is published, without its signature."""
        return {
            "kind": HEAD_KIND, "tree": self.tree, "size": self.size, "root": self.root.hex(), "at": self.at,
            "final": self.final, "key": self.key.hex(),
        }  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """What was committed."""

    text: str
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, raw: object) -> "Leaf":
        """Read a leaf from its canonical text.

        Raises:
            Unreadable: It is no text of a leaf, or could be read in two ways.
        """
        if isinstance(raw, str):
            found = _parsed(raw)
            if isinstance(found, dict) and _is_canonical(found, raw):
                names = ("kind", "previous", "salt", "subject")
                if all(isinstance(found.get(name), str) for name in names) and _is_count(found.get("seq")):
                    return cls(raw, found)
        raise Unreadable("a leaf is not the canonical text of one", "叶子不是规范文本")

    @property
    def commitment(self) -> bytes:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).digest()


def canonical(fields: Mapping[str, Any]) -> bytes:
    """Return sorted, compact JSON in UTF-8."""
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a tree's leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def inclusion_holds(data: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether ``data`` is leaf ``index`` of the tree of ``size`` leaves with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last = index, size - 1
    found = leaf_hash(data)
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = _node(sibling, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def consistency_holds(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether the tree of ``new`` leaves begins with that of ``old`` leaves (RFC 9162, 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    if not path:
        return False
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = _node(sibling, before), _node(sibling, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = _node(after, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


@dataclass
class Judgement:
    """What was found, in the order in which it was looked at."""

    said: list[Said] = field(default_factory=list)
    unreadable: bool = False

    def ok(self, english: str, chinese: str) -> None:
        """Say that something holds."""
        self.said.append(Said("ok", english, chinese))

    def note(self, english: str, chinese: str) -> None:
        """Say something that proves nothing."""
        self.said.append(Said("", english, chinese))

    def open(self, english: str, chinese: str) -> None:
        """Say what is not proved."""
        self.said.append(Said("no", english, chinese))

    def bad(self, fault: Unsound) -> None:
        """Say that something does not hold."""
        self.said.append(Said("bad", fault.english, fault.chinese))
        self.unreadable = self.unreadable or isinstance(fault, Unreadable)

    @property
    def exit_code(self) -> int:
        """0: everything holds; 1: something does not; 2: something could not be read."""
        if self.unreadable:
            return 2
        return 1 if any(one.mark == "bad" for one in self.said) else 0


class Verifier:
    """Judges documents, and how what they prove hangs together with heads that somebody outside has kept."""

    def __init__(self, keys: Sequence[Ed25519PublicKey], files: Mapping[str, str] | None = None) -> None:
        """Prepare.

        Args:
            keys: Public keys of the log, the present one and former ones. From the operator by a way of its own: a
                key that came together with the proof proves nothing.
            files: SHA-256 of files that reports should be, by name.
        """
        self._keys = keys
        self._files = dict(files or {})
        self._heads: dict[str, list[Head]] = {}
        self._witnessed: list[Head] = []
        self._included: list[tuple[Leaf, int, Head]] = []
        self._joined: list[tuple[Head, Head]] = []
        self.judgement = Judgement()

    def witness(self, raw: object) -> None:
        """Take a head that somebody outside has kept: by itself, as it was answered or called out, or a list."""
        try:
            for one in raw if isinstance(raw, list) else [raw]:
                head = self._head(one.get("head", one.get("data", one)) if isinstance(one, Mapping) else one)
                self._witnessed.append(head)
                self.judgement.ok(
                    f"head you kept: tree {head.tree}, {head.size} leaves, signed {head.at}",
                    f"您保存的树头:{head.tree},{head.size} 个叶子,签名时间 {head.at}",
                )
        except Unsound as fault:
            self.judgement.bad(fault)

    def take(self, raw: object) -> None:
        """Judge one document."""
        kind = raw.get("type") if isinstance(raw, Mapping) else None
        judges = {
            "inclusion": self._inclusion, "consistency": self._consistency, "chain": self._chain, "head": self._single,
            CALLBACK: self._single,
        }  # fmt: skip
        try:
            if not isinstance(raw, Mapping) or not isinstance(kind, str) or kind not in judges:
                raise Unreadable(
                    f"not a document of type {', '.join(judges)}", f"不是以下类型的文档:{'、'.join(judges)}"
                )
            judges[kind](raw)
        except Unsound as fault:
            self.judgement.bad(fault)

    def conclude(self) -> Judgement:
        """Say how everything hangs together, and what has not been proved."""
        say = self.judgement
        for leaf, index, head in self._included:
            self._when(leaf, index, head)
        for name in self._files:
            say.bad(Unsound(f"{name} is not the report of any proof that holds here: it was changed, or is another one",
                            f"{name} 不是此处任何成立证明所指的报告:已被改动,或是另一份文件"))  # fmt: skip
        if not self._witnessed:
            say.open(
                "No head that somebody outside has kept was given. The operator holds key and data, and could have "
                "made all of this anew; only a head that left the house earlier (--witness) excludes that.",
                "未提供由外部保存的树头。运营方持有密钥和数据,可以重新生成以上全部内容;只有事先送出的树头(--witness)才能排除这一点。",
            )
        if self._included:
            say.open(
                "A proof says that a value was committed and has not changed since. It does not say that the meter "
                "was right, that its ratio (CT, PT) is true, that the meter hangs on the circuit it is booked to, or "
                "that nothing was left out.",
                "证明仅表明某个数值已被提交且此后未改变;不表明电表准确、变比(CT、PT)真实、电表确实接在所记回路上,也不表明没有遗漏。",
            )
        return say

    def _inclusion(self, raw: Mapping[str, Any]) -> None:
        leaf, head, path = Leaf.read(raw.get("leaf")), self._head(raw.get("head")), _path(raw.get("path"))
        index = _count(raw.get("index"))
        if not inclusion_holds(leaf.commitment, index, head.size, path, head.root):
            raise Unsound(
                f"the leaf of {leaf.fields['subject']} is not leaf {index} of tree {head.tree}: it, the path or the "
                "head was changed",
                f"{leaf.fields['subject']} 的叶子不是树 {head.tree} 的第 {index} 个叶子:叶子、路径或树头被改动",
            )
        english, chinese = _told(leaf)
        self.judgement.ok(
            f"leaf {index} of tree {head.tree} ({head.size} leaves, head signed {head.at}): {english}",
            f"树 {head.tree} 的第 {index} 个叶子(共 {head.size} 个,树头签名时间 {head.at}):{chinese}",
        )
        if isinstance(leaf.fields.get("corrects"), str):
            reason = leaf.fields.get("reason")
            self.judgement.note(
                f"it corrects leaf {leaf.fields['corrects']}, which stays; reason given: {reason}",
                f"该叶子更正了叶子 {leaf.fields['corrects']}(原叶子保留);所述原因:{reason}",
            )
        self._included.append((leaf, index, head))
        self._compare_files(leaf)

    def _compare_files(self, leaf: Leaf) -> None:
        if leaf.fields["kind"] != "report":
            return
        for name in [name for name, digest in self._files.items() if digest == leaf.fields.get("file_sha256")]:
            del self._files[name]
            self.judgement.ok(f"{name} is, byte for byte, the report that was committed",
                              f"{name} 与当时提交的报告逐字节一致")  # fmt: skip

    def _consistency(self, raw: Mapping[str, Any]) -> None:
        old, new = self._head(raw.get("old")), self._head(raw.get("new"))
        days = raw.get("days", [])
        if not isinstance(days, list):
            raise Unreadable("the days of a consistency proof cannot be read", "一致性证明中的各日无法读取")
        until = self._head(raw.get("closed")) if days else new
        if until.tree != old.tree or not consistency_holds(
            old.size, until.size, old.root, until.root, _path(raw.get("path"))
        ):
            raise _rewritten(old, until)
        for one in days:
            until = self._next_day(until, one if isinstance(one, Mapping) else {})
        if until != new:
            raise Unsound("a consistency proof does not end at its new head", "一致性证明没有到达其新树头")
        self._joined.append((old, new))
        self.judgement.ok(
            f"everything under head {old.tree}/{old.size} is unchanged under head {new.tree}/{new.size}"
            + (f", through the closing heads of {len(days)} tree(s)" if days else ""),
            f"树头 {old.tree}/{old.size} 下的全部内容在树头 {new.tree}/{new.size} 下保持不变"
            + (f",经过 {len(days)} 个每日封闭树头" if days else ""),
        )

    def _next_day(self, closed: Head, raw: Mapping[str, Any]) -> Head:
        """Return the head of the tree that begins with ``closed``."""
        leaf, head, path = Leaf.read(raw.get("leaf")), self._head(raw.get("head")), _path(raw.get("path"))
        if not closed.final or head.tree <= closed.tree:
            raise Unsound(f"head {closed.tree}/{closed.size} does not close its tree",
                          f"树头 {closed.tree}/{closed.size} 没有封闭其树")  # fmt: skip
        if leaf.fields.get("closed") != {**closed.as_json(), "signature": closed.signature}:
            raise Unsound(f"tree {head.tree} begins with another head than that of {closed.tree}",
                          f"树 {head.tree} 的首个叶子不是 {closed.tree} 的封闭树头")  # fmt: skip
        if not inclusion_holds(leaf.commitment, 0, head.size, path, head.root):
            raise Unsound(f"tree {head.tree} does not begin with the closing head of {closed.tree}",
                          f"树 {head.tree} 没有以 {closed.tree} 的封闭树头开始")  # fmt: skip
        return head

    def _chain(self, raw: Mapping[str, Any]) -> None:
        entries = raw.get("entries")
        if not isinstance(entries, list) or not entries:
            raise Unreadable("a chain has no entries", "链中没有条目")
        leaves = [Leaf.read(one) for one in entries]
        subject = leaves[0].fields["subject"]
        for before, leaf in zip([None, *leaves[:-1]], leaves, strict=True):
            seq = leaf.fields["seq"]
            if before is None:
                continues = seq > 1 or (seq == 1 and leaf.fields["previous"] == GENESIS)
            else:
                continues = seq == before.fields["seq"] + 1 and leaf.fields["previous"] == before.commitment.hex()
            if not continues or leaf.fields["subject"] != subject:
                raise Unsound(f"the chain of {subject} does not hold at entry {seq}: one was changed, removed or moved",
                              f"{subject} 的链在第 {seq} 条处断开:有条目被改动、删除或移动")  # fmt: skip
        first, last = leaves[0].fields["seq"], leaves[-1].fields["seq"]
        self.judgement.ok(
            f"the chain of {subject} is whole from {first} to {last}, commitment of the last "
            f"{leaves[-1].commitment.hex()}",
            f"{subject} 的链从第 {first} 条到第 {last} 条完整,末条承诺值 {leaves[-1].commitment.hex()}",
        )
        self.judgement.open(
            "A chain alone is under no signature; that its last entry is in a tree is what an inclusion proof says. "
            "Whether the chain went on after its last entry cannot be seen from it.",
            "链本身没有签名;其末条是否在树中由包含证明说明。从链本身看不出末条之后是否还有条目。",
        )

    def _single(self, raw: Mapping[str, Any]) -> None:
        head = self._head(raw.get("data" if raw.get("type") == CALLBACK else "head"))
        self.judgement.ok(
            f"head of tree {head.tree}: {head.size} leaves, root {head.root.hex()}, signed {head.at}",
            f"树 {head.tree} 的树头:{head.size} 个叶子,根 {head.root.hex()},签名时间 {head.at}",
        )

    def _head(self, raw: object) -> Head:
        """Return a head whose signature holds and that contradicts no other one."""
        head = Head.read(raw)
        if not self._keys:
            raise Unsound("no public key was given, so no head can be trusted", "未提供公钥,无法信任任何树头")
        named = [key for key in self._keys if key_id(key) == head.key]
        if not named:
            raise Unsound(f"head {head.tree}/{head.size} is signed under key {head.key.hex()}, which was not given",
                          f"树头 {head.tree}/{head.size} 由公钥 {head.key.hex()} 签名,但未提供该公钥")  # fmt: skip
        if not any(_is_signed(head, key) for key in named):
            raise Unsound(f"head {head.tree}/{head.size}: its signature does not hold",
                          f"树头 {head.tree}/{head.size} 的签名不成立")  # fmt: skip
        known = self._heads.setdefault(head.tree, [])
        for other in known:
            if head.contradicts(other):
                raise Unsound(
                    f"TWO HISTORIES: heads {other.tree}/{other.size} and {head.tree}/{head.size} are both signed and "
                    "no log has both; keep both, they prove that it was forked",
                    f"两份历史:树头 {other.tree}/{other.size} 与 {head.tree}/{head.size} 均有有效签名,但不可能同属一份"
                    "日志;请保存两者,它们证明日志曾被分叉",
                )
        if head not in known:
            known.append(head)
        return head

    def _when(self, leaf: Leaf, index: int, head: Head) -> None:
        """Say by which kept head a leaf is covered."""
        covering = [one for one in self._witnessed if self._covers(one, index, head)]
        subject = leaf.fields["subject"]
        if covering:
            first = min(covering, key=lambda one: one.place)
            self.judgement.ok(
                f"leaf {index} of tree {head.tree} ({subject}) was committed before you were given head "
                f"{first.tree}/{first.size}, and is unchanged since",
                f"树 {head.tree} 的第 {index} 个叶子({subject})在您收到树头 {first.tree}/{first.size} 之前已提交,"
                "此后未改变",
            )
        elif self._witnessed:
            self.judgement.open(
                f"No head that you kept covers leaf {index} of tree {head.tree} ({subject}): ask for a consistency "
                "proof between the head you kept and the head of this proof. Until then only the operator's own "
                "signature says when it was committed.",
                f"您保存的树头均未覆盖树 {head.tree} 的第 {index} 个叶子({subject}):请索取所存树头与本证明树头之间的"
                "一致性证明。在此之前,只有运营方自己的签名说明其提交时间。",
            )

    def _covers(self, kept: Head, index: int, head: Head) -> bool:
        """Return whether the leaf under ``head`` is under the kept head too."""
        if kept.root == head.root and kept.place == head.place:
            return True
        if self._leads(head, kept):
            return True
        return kept.tree == head.tree and index < kept.size and self._leads(kept, head)

    def _leads(self, old: Head, new: Head) -> bool:
        """Return whether consistency proofs lead from one head to the other."""
        reached, fresh = {old.place}, [old.place]
        while fresh:
            place = fresh.pop()
            for one, other in self._joined:
                if one.place == place and other.place not in reached:
                    reached.add(other.place)
                    fresh.append(other.place)
        return new.place in reached


def read_keys(pems: Iterable[tuple[str, bytes]]) -> list[Ed25519PublicKey]:
    """Return public keys from PEM, named for the message.

    Raises:
        Unreadable: One is no Ed25519 public key.
    """
    keys = []
    for name, pem in pems:
        key: object = None
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            key = load_pem_public_key(pem)
        if not isinstance(key, Ed25519PublicKey):
            raise Unreadable(f"{name}: not an Ed25519 public key (PEM)", f"{name}:不是 Ed25519 公钥(PEM)")
        keys.append(key)
    return keys


def read_document(name: str, content: bytes) -> object:
    """Return the JSON of a document.

    Raises:
        Unreadable: It is none, or too large.
    """
    if len(content) > DOCUMENT_BYTES:
        raise Unreadable(f"{name}: larger than {DOCUMENT_BYTES} bytes", f"{name}:大于 {DOCUMENT_BYTES} 字节")
    try:
        found = _parsed(content.decode())
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise Unreadable(f"{name}: not a JSON document", f"{name}:不是 JSON 文档")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the files of a command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="verifier", description="Checks what Wattring has attested, without it.")
    parser.add_argument("documents", nargs="+", type=Path, help="proofs, heads and chains, as JSON")
    parser.add_argument("--key", action="append", type=Path, default=[], help="carbon.pub; may be given several times")
    parser.add_argument("--witness", action="append", type=Path, default=[], help="a head, or a list, that you kept")
    parser.add_argument("--file", action="append", type=Path, default=[], help="the report that a proof is about")
    parser.add_argument("--lang", choices=("en", "zh"), default="en")
    asked = parser.parse_args(arguments)
    judgement = Judgement()
    try:
        keys = read_keys((str(path), _content(path)) for path in asked.key)
        files = {path.name: hashlib.sha256(_content(path)).hexdigest() for path in asked.file}
        verifier = Verifier(keys, files)
        judgement = verifier.judgement
        for path in asked.witness:
            verifier.witness(read_document(str(path), _content(path)))
        for path in asked.documents:
            verifier.take(read_document(str(path), _content(path)))
        verifier.conclude()
    except Unsound as fault:
        judgement.bad(fault)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a document may hold what a terminal cannot show
    sys.stdout.write("".join(f"{line}\n" for line in lines_of(judgement, asked.lang)))
    return judgement.exit_code


def lines_of(judgement: Judgement, language: str) -> list[str]:
    """Return the judgement as a person reads it."""
    chinese = language == "zh"
    marks = {"ok": "[成立]", "bad": "[不成立]", "no": "[未证明]", "": "      "} if chinese else {
        "ok": "[holds]", "bad": "[FAILS]", "no": "[not proved]", "": "       ",
    }  # fmt: skip
    lines = [f"{marks[one.mark]} {one.chinese if chinese else one.english}" for one in judgement.said]
    ends = (
        ("全部成立。", "有内容不成立。", "有内容无法读取。")
        if chinese
        else ("Everything that was given holds.", "SOMETHING DOES NOT HOLD.", "SOMETHING COULD NOT BE READ.")
    )
    return [*lines, ends[judgement.exit_code]]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Unreadable(f"{path} cannot be read: {exc.strerror}", f"{path} 无法读取:{exc.strerror}") from None


def _told(leaf: Leaf) -> tuple[str, str]:
    """Return what a leaf says, in words."""
    said = leaf.fields
    subject = f"{said['subject']} #{said['seq']}"
    if said["kind"] == "interval":
        value = "unknown" if said.get("value") is None else f"{said['value']} {said.get('unit')}"
        value_zh = "未知" if said.get("value") is None else value
        span = f"[{said.get('start')}, {said.get('end')})"
        return (
            f"{subject}: {value} in {span}, {said.get('flag')}, version {said.get('version')}",
            f"{subject}:{span} 内 {value_zh},标记 {said.get('flag')},版本 {said.get('version')}",
        )
    if said["kind"] == "report":
        english = f"{subject}: {said.get('name')}, version {said.get('version')}, text {said.get('file_sha256')}"
        return english, f"{subject}:{said.get('name')},第 {said.get('version')} 版,文本 {said.get('file_sha256')}"
    shown = {name: value for name, value in said.items() if name not in ("previous", "salt", "seq", "subject")}
    text = json.dumps(shown, ensure_ascii=False)
    return f"{subject}: {text}", f"{subject}:{text}"


def _rewritten(old: Head, new: Head) -> Unsound:
    return Unsound(
        f"head {new.tree}/{new.size} does not contain what head {old.tree}/{old.size} covered: leaves were changed, "
        "removed or moved, or the proof was",
        f"树头 {new.tree}/{new.size} 不包含树头 {old.tree}/{old.size} 所覆盖的内容:叶子被改动、删除或移动,"
        "或者证明本身被改动",
    )


def key_id(key: Ed25519PublicKey) -> bytes:
    """Return the name of a key: the SHA-256 of its SubjectPublicKeyInfo (DER), as in RFC 6962, 3.2."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _is_signed(head: Head, key: Ed25519PublicKey) -> bool:
    try:
        signature = base64.b64decode(head.signature, validate=True)
        key.verify(signature, head.signed_bytes())
    except (InvalidSignature, ValueError):
        return False
    return base64.b64encode(signature).decode() == head.signature  # base64 can write the same bytes in several ways


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _count(value: object) -> int:
    if isinstance(value, int) and _is_count(value):
        return value
    raise Unreadable("a number of a leaf cannot be read", "叶子序号无法读取")


def _hash(value: object) -> bytes:
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return bytes.fromhex(value)
    raise Unreadable("a hash is not 64 hexadecimal digits", "散列值不是 64 位十六进制数")


def _path(raw: object) -> list[bytes]:
    if not isinstance(raw, list) or len(raw) > PATH_HASHES:
        raise Unreadable("the path of a proof cannot be read", "证明路径无法读取")
    return [_hash(one) for one in raw]


def _parsed(text: str) -> object:
    """Return the JSON value of a text, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_canonical(fields: dict[str, Any], text: str) -> bool:
    """Return whether a text is the one way to write its fields: no name twice, no fraction that reads in two ways."""
    try:
        return not _has_fraction(fields) and canonical(fields) == text.encode()
    except (ValueError, RecursionError):
        return False


def _has_fraction(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_fraction(part) for part in value.values())
    if isinstance(value, list):
        return any(_has_fraction(part) for part in value)
    return isinstance(value, float)


if __name__ == "__main__":
    sys.exit(main())
