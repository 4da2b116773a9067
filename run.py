"""python run.py method=wanda sparsity=0.5        python run.py --help        python run.py plan=true"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

CONF = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    from sparsity.runs.launch import job  # heavy: --help and tab completion do not wait for torch

    return job(config)


if __name__ == "__main__":
    from sparsity.runs.errors import explained

    explained(main, CONF)
