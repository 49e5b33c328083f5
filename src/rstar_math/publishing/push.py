"""Plans what is sent to the hub, and sends it."""

from dataclasses import dataclass
from typing import Any

from rstar_math.models.uploads import UploadTarget, upload
from rstar_math.publishing.cards import card
from rstar_math.publishing.contents import CARD, Contents, sha256_of, size_of
from rstar_math.publishing.review import require_licence, require_no_secrets


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What is sent, and where."""

    contents: Contents
    target: UploadTarget
    licence: str
    card: str

    @property
    def size_bytes(self) -> int:
        """The size of all files and the card."""
        return sum(map(size_of, self.contents.files.values())) + len(self.card.encode())

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON."""
        files = [
            {"file": name, "bytes": size_of(content), "sha256": sha256_of(content)}
            for name, content in self.contents.files.items()
        ]
        card_bytes = self.card.encode()
        files.append({"file": CARD, "bytes": len(card_bytes), "sha256": sha256_of(card_bytes)})
        return {
            "kind": self.contents.kind,
            "repo": self.target.repo,
            "type": self.target.type,
            "private": self.target.private,
            "licence": self.licence,
            "base": self.contents.base,
            "bytes": self.size_bytes,
            "files": files,
        }


def plan_push(
    contents: Contents,
    repo: str,
    *,
    private: bool = False,
    licence: str | None = None,
    allow_secrets: bool = False,
) -> PushPlan:
    """What a push sends. Nothing is sent.

    Raises `InputError` if files seem to contain keys (unless `allow_secrets`), and if the licence
    is neither given nor known.
    """
    target = UploadTarget(repo, "dataset" if contents.is_data else "model", private)
    if not allow_secrets:
        require_no_secrets(contents)
    chosen = require_licence(contents, licence)
    return PushPlan(contents, target, chosen, card(contents, target, chosen))


def push(plan: PushPlan) -> str:
    """Send the files and the card in one commit; the address of the commit. Raises `UploadError`.

    After an interruption, the same call sends only the large files that have not arrived.
    """
    files = {**plan.contents.files, CARD: plan.card.encode()}
    return upload(plan.target, files, f"Upload a {plan.contents.kind} with rstar-math")
