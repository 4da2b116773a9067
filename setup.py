"""What pyproject.toml cannot say: the packages are those that are found below sparsity/, and conf/ besides."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["sparsity", "sparsity.*"]), "sparsity.conf"])
