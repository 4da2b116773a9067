"""A model from the Hugging Face hub, or from its cache on this machine. HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are respected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsity.core import UserError
from sparsity.models.layout import first_line
from sparsity.models.source import Loaded
from sparsity.ranges import Refused, checked


@dataclass(frozen=True)
@checked
class Hub:
    """A model source that reads a repository of the hub."""

    name: str  # "owner/model", as the hub spells it
    revision: str | None  # a branch, tag or commit; None: the default branch at the time of the run
    trust_remote_code: bool
    stream: bool

    def check(self) -> None:
        from huggingface_hub import errors  # its client of HTTP takes a while
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but re-exported without `as`

        try:
            validate_repo_id(self.name)
        except errors.HFValidationError as err:
            raise Refused({"name": self.name}, f"owner/model, as the hub spells it; {first_line(err)}") from err
        if self.stream and self.trust_remote_code:
            raise Refused(
                {"stream": self.stream, "trust_remote_code": self.trust_remote_code},
                "one of them: what code that comes with a model computes when it is loaded cannot be known here; leave one false",
            )
        if Path(self.name).exists():  # transformers would read the folder, and the result would name the hub
            raise Refused(
                {"name": self.name},
                f"a name of the hub, and it is a path here too: use model=local model.path={self.name}, or another folder",
            )

    def files(self) -> list[Path]:
        return []

    def load(self, dtype: torch.dtype | None) -> Loaded:
        from huggingface_hub import errors, resolve_revision

        from sparsity.models.checkpoint import configuration, read  # transformers takes seconds

        self.check()
        try:
            # The commit is looked up once, for all files, so a push between two requests cannot mix two versions.
            commit = resolve_revision(self.name, revision=self.revision).resolved
            config = configuration(self.name, revision=commit, trust_remote_code=self.trust_remote_code)
        except (OSError, errors.RevisionResolutionError) as err:
            reason = first_line(err).partition(" (")[0]  # without the library's own advice, which follows
            raise UserError(
                f"{self.name}: got nothing from the hub ({reason}); expected the model to be there, or in the "
                f"hub's cache on this machine; {self._advice(err)}"
            ) from err
        options = {"revision": commit, "trust_remote_code": self.trust_remote_code}
        model, tokenizer, files = read(self.name, config, dtype, self.stream, **options)
        origin = {"source": "hub", "repo": self.name, "revision": commit}
        return Loaded(model, tokenizer, self.name.rpartition("/")[2], origin, files)

    def _advice(self, err: BaseException) -> str:
        from huggingface_hub import constants, errors

        causes = tuple(_causes(err))
        if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
            return "the model is gated: accept its terms on its page, then `hf auth login`"
        if any(isinstance(cause, errors.RevisionNotFoundError) for cause in causes):
            return f"it has no revision {self.revision}: check model.revision"
        if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
            return "check the spelling of model.name; if the model is private, `hf auth login`"
        if constants.is_offline_mode():
            return "HF_HUB_OFFLINE is set: unset it once to download, or use model=local, model=smollm2 or model=tiny"
        return "connect this machine to the hub once, or use model=local, model=smollm2 or model=tiny"


def _causes(err: BaseException | None) -> Iterator[BaseException]:
    while err is not None:
        yield err
        err = err.__cause__ or err.__context__
