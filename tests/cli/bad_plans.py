"""Questions to the planner that cannot be answered, and files that are no machines."""

from __future__ import annotations

from tests.cli.refusal import Case, write_file

PLANS: list[Case] = [
    Case("plan of nothing", "plan", r"redline: 'redline plan' needs ENVIRONMENT: .*"),
    Case(
        "what-if with a misspelt key",
        "plan CartPole-v1 --what-if corse=64",
        r"redline: --what-if: unknown key 'corse': did you mean 'cores'\? valid: cores, clock, .*",
    ),
    Case(
        "what-if without a value",
        "plan CartPole-v1 --what-if cores=8,gpu",
        r"redline: --what-if: cannot read 'gpu': write key=value, such as cores=64, .*",
    ),
    Case("what-if about nothing", "plan CartPole-v1 --what-if ,", r"redline: --what-if is empty: .*"),
    Case(
        "no cores",
        "plan CartPole-v1 --what-if cores=0",
        r"redline: --what-if: cores=0: expected a whole number from 1 to 1,000,000",
    ),
    Case(
        "two numbers of cores",
        "plan CartPole-v1 --what-if cores=4,cores=8",
        r"redline: --what-if: cores is both '4' and '8': keep one of them",
    ),
    Case(
        "a GPU and none",
        "plan CartPole-v1 --what-if gpu=none,gpu=h100",
        r"redline: --what-if: gpu is both 'none' and 'h100': keep one of them",
    ),
    Case(
        "an environment both slower and faster",
        "plan CartPole-v1 --what-if env=3xslower,env=2xfaster",
        r"redline: --what-if: env is both '3xslower' and '2xfaster': keep one of them",
    ),
    Case(
        "an environment of another speed, not said which way",
        "plan CartPole-v1 --what-if env=3x",
        r"redline: --what-if: env=3x: expected how much, such as env=3x slower or env=2x faster",
    ),
    Case(
        "unknown GPU",
        "plan CartPole-v1 --what-if gpu=rtx4080",
        r"redline: --what-if: gpu=rtx4080: GPU 'rtx4080' has no .*: did you mean 'rtx4090'\? valid: h200, h100, .*",
    ),
    Case(
        "memory without a unit",
        "plan CartPole-v1 --what-if memory=256",
        r"redline: --what-if: memory=256: expected an amount with its unit, such as memory=256GB",
    ),
    Case(
        "network without a unit",
        "plan CartPole-v1 --what-if network=10",
        r"redline: --what-if: network=10: expected a rate, .*",
    ),
    Case(
        "no machine file",
        "plan CartPole-v1 --machine big.yaml",
        r"redline: --machine big\.yaml: cannot be read: No such file or directory",
    ),
    Case(
        "a machine file that is no YAML",
        "plan CartPole-v1 --machine big.yaml",
        r"redline: --machine big\.yaml, line 2: this is neither YAML nor JSON",
        arrange=write_file("big.yaml", "cores: [4\n"),
    ),
    Case(
        "a machine without cores",
        "plan CartPole-v1 --machine big.yaml",
        r"redline: --machine big\.yaml: a machine file needs at least 'cores: N' .*",
        arrange=write_file("big.yaml", "clock: 3.0\n"),
    ),
    Case(
        "a machine with a misspelt key",
        "plan CartPole-v1 --machine big.yaml",
        r"redline: --machine big\.yaml: unknown key 'clok': did you mean 'clock'\? valid: name, cores, .*",
        arrange=write_file("big.yaml", "cores: 64\nclok: 3.0\n"),
    ),
    Case(
        "a machine with half a core",
        "plan CartPole-v1 --machine big.yaml",
        r"redline: --machine big\.yaml: cores must be a whole number of 0 or more, got 1\.5",
        arrange=write_file("big.yaml", "cores: 1.5\n"),
    ),
    Case(
        "a GPU that nobody has published, without its rate",
        "plan CartPole-v1 --machine big.yaml",
        r"redline: --machine big\.yaml: gpus\.tflops is missing, and 'h10' .*: did you mean 'h100'\? .*",
        arrange=write_file("big.yaml", "cores: 64\ngpus: {name: h10, count: 2}\n"),
    ),
]
