"""Bad command lines, keys, values and configuration files."""

from __future__ import annotations

from tests.cli.refusal import Case, write_file

USAGE: list[Case] = [
    # ---- the command line
    Case("no command", "", r"redline: no command given; valid: train, resume, .*"),
    Case(
        "misspelt command", "trian CartPole-v1", r"redline: unknown command 'trian': did you mean 'train'\?"
    ),
    Case(
        "misspelt option", "train CartPole-v1 --stpes 5", r"redline: unknown option '--stpes' .*'--steps'\?"
    ),
    Case(
        "option without its value",
        "train CartPole-v1 --recipe",
        r"redline: option --recipe .* needs a value: .*",
    ),
    Case("one word too many", "train CartPole-v1 Pong", r"redline: 'redline train' does not take 'Pong': .*"),
    Case("no environment", "train", r"redline: train needs an environment: redline train CartPole-v1 .*"),
    Case("no run", "eval", r"redline: 'redline eval' needs RUN: .*"),
    Case(
        "steps that are no number",
        "train CartPole-v1 --steps lots",
        r"redline: --steps: expected a whole .* 'lots'",
    ),
    Case(
        "negative steps",
        "train CartPole-v1 --steps -5",
        r"redline: --steps: expected a whole number of 1 .* '-5'",
    ),
    Case(
        "no environments at all",
        "train CartPole-v1 --num-envs 0",
        r"redline: --num-envs: expected a whole .* '0'",
    ),
    Case(
        "seed out of range",
        "train CartPole-v1 --seed -1",
        r"redline: --seed: expected a whole number from 0 .*",
    ),
    Case(
        "unknown device",
        "train CartPole-v1 --device gpu",
        r"redline: --device: expected auto, cpu, cuda or .*",
    ),
    Case(
        "recipe and config",
        "train --recipe ppo --config a.yaml",
        r"redline: --recipe and --config both say .*",
    ),
    Case(
        "unknown benchmark",
        "bench trainig",
        r"redline: unknown benchmark 'trainig': did you mean 'training'\?",
    ),
    # ---- recipes, environments, keys and values
    Case(
        "unknown recipe", "train CartPole-v1 --recipe pop", r"redline: recipe 'pop' is unknown: .*'ppo'\?.*"
    ),
    Case(
        "unknown environment", "train CartPol-v1", r"redline: unknown environment 'CartPol-v1'.*CartPole-v1.*"
    ),
    Case("unknown game", "train ALE/Pnog-v5", r"redline: unknown environment 'ALE/Pnog-v5'.*ALE/Pong-v5.*"),
    Case("module that does not exist", "train nowhere.games:make", r"redline: .*nowhere.*"),
    Case("function that does not exist", "train tests.cli.broken:Tyo", r"redline: .*'Tyo'.*Toy.*"),
    Case(
        "something that is not a function",
        "train tests.cli.broken:NUMBER",
        r"redline: .*is a int, not a function.*",
    ),
    Case(
        "unknown key",
        "train CartPole-v1 --set algorithm.gama=0.9",
        r"redline: unknown key 'algorithm.gama': did you mean 'algorithm.gamma'\?",
    ),
    Case(
        "key of another part",
        "train CartPole-v1 --set algorithm.learning_rate=0.1",
        r"redline: unknown key 'algorithm.learning_rate': did you mean 'learner.learning_rate'\?",
    ),
    Case(
        "key without its part",
        "train CartPole-v1 --set gamma=1",
        r"redline: unknown key 'gamma': .*'algorithm.gamma'\?",
    ),
    Case("key without value", "train CartPole-v1 --set algorithm.gamma", r"redline: cannot read setting .*"),
    Case(
        "text for a number",
        "train CartPole-v1 --set learner.learning_rate=fast",
        r"redline: learner.learning_rate: expected a number, got 'fast'",
    ),
    Case(
        "nan",
        "train CartPole-v1 --set learner.learning_rate=.nan",
        r"redline: learner.learning_rate: expected .* nan",
    ),
    Case(
        "fraction for a count",
        "train CartPole-v1 --set algorithm.epochs=1.5",
        r"redline: algorithm.epochs: .* 1.5",
    ),
    Case(
        "number for a switch",
        "train CartPole-v1 --set learner.anneal=1",
        r"redline: learner.anneal: expected true .*",
    ),
    Case(
        "unknown choice",
        "train CartPole-v1 --set network.core=lsmt",
        r"redline: network.core: .* did you mean 'lstm'\?",
    ),
    Case(
        "wrong list",
        "train CartPole-v1 --set network.hidden=64,wide",
        r"redline: network.hidden\[1\]: expected a whole .*",
    ),
    Case(
        "open bracket",
        "train CartPole-v1 --set network.hidden=[64",
        r"redline: network.hidden: cannot read .*",
    ),
    Case(
        "value out of range",
        "train CartPole-v1 --set algorithm.gamma=2",
        r"redline: algorithm.gamma must be in \(0, 1\].*",
    ),
    Case(
        "negative learning rate",
        "train CartPole-v1 --set learner.learning_rate=-1",
        r"redline: learner.learning_rate must .*",
    ),
    Case(
        "unknown backend",
        "train CartPole-v1 --set environment.backend=threads",
        r"redline: environment.backend 'threads' .*",
    ),
    Case(
        "Atari backend elsewhere",
        "train CartPole-v1 --set environment.backend=atari",
        r"redline: environment.backend=atari: .*",
    ),
    Case(
        "key of a part that is not there",
        "train CartPole-v1 --set replay.capacity=10",
        r"redline: cannot set 'replay.capacity': 'replay' has no keys, this experiment has none",
    ),
    Case(
        "another algorithm by --set",
        "train CartPole-v1 --set algorithm.kind=dqn",
        r"redline: cannot set 'algorithm.kind': it is ppo; choose another with --recipe",
    ),
    Case(
        "unknown argument of the environment",
        "train CartPole-v1 --set environment.kwargs.gravty=1",
        r"redline: environment 'CartPole-v1' .*gravty.*",
    ),
    Case(
        "DQN for continuous actions",
        "train Pendulum-v1 --recipe dqn",
        r"redline: dqn needs one discrete action, .*",
    ),
    Case(
        "DQN with memory",
        "train CartPole-v1 --recipe dqn --set network.core=lstm",
        r"redline: network.core=lstm: dqn .*",
    ),
    Case(
        "DQN with normalised observations",
        "train CartPole-v1 --recipe dqn --set network.normalize_observation=true",
        r"redline: network.normalize_observation=true: dqn learns from replay, .*",
    ),
    Case(
        "a batch of older unrolls alone",
        "train CartPole-v1 --recipe impala --set algorithm.replay_share=1",
        r"redline: .*replay_share must be in \[0, 1\), got 1.*",
    ),
    Case(
        "older unrolls and normalised rewards",
        "train CartPole-v1 --recipe impala --set algorithm.replay_share=0.5 --set learner.reward=normalize",
        r"redline: learner.reward=normalize follows each environment's return, .*",
    ),
    Case(
        "DQN without replay",
        "train CartPole-v1 --recipe dqn --set replay=null",
        r"redline: dqn needs a replay: .*",
    ),
    Case("GPU that is not there", "train CartPole-v1 --device cuda:99", r"redline: .*cuda.*"),
    Case(
        "more groups than environments",
        "train CartPole-v1 --num-envs 1 --set sampler.groups=2",
        r"redline: sampler: 1 shards x 2 groups need as many environments, but num_envs is 1",
    ),
    Case(
        "more actors than environments",
        "train CartPole-v1 --num-envs 4 --set sampler.shards=9",
        r"redline: sampler: 9 shards .*",
    ),
    Case(
        "replay larger than memory",
        "train CartPole-v1 --recipe dqn --set replay.capacity=1e13 --set run.steps=10000000000000",
        r"redline: replay of .* GiB are left: .*",
        1,
    ),
    Case(
        "unknown compression",
        "train CartPole-v1 --recipe dqn --set replay.compression=lz5",
        r"redline: replay.compression .*'lz4'\?",
    ),
    # ---- architectures and runtimes
    Case(
        "unknown architecture",
        "train CartPole-v1 --architecture impalla",
        r"redline: architecture 'impalla' is unknown: did you mean 'impala'\?.*",
    ),
    Case(
        "unknown runtime",
        "train CartPole-v1 --runtime thread",
        r"redline: parallel.runtime: expected one of auto, .*, got 'thread'; did you mean 'threads'\?",
    ),
    Case(
        "roles side by side in one loop",
        "train CartPole-v1 --recipe impala --runtime in_process",
        r"redline: parallel.runtime=in_process: architecture impala .*: use threads or processes",
    ),
    Case(
        "one loop in threads",
        "train CartPole-v1 --runtime threads",
        r"redline: parallel.runtime=threads: architecture synchronous has one loop, .*",
    ),
    Case(
        "copies of one loop, in training",
        "train CartPole-v1 --set parallel.copies=3",
        r"redline: parallel.copies=3: architecture synchronous has one loop; choose another with .*",
    ),
    Case(
        "a bound on lag where there is none",
        "train CartPole-v1 --recipe impala --architecture synchronous --set parallel.late=drop",
        r"redline: parallel.late=drop: architecture synchronous has one loop; choose another with .*",
    ),
    Case(
        "a number of another architecture",
        "train CartPole-v1 --recipe impala --set parallel.max_staleness=4",
        r"redline: parallel.max_staleness=4: architecture impala has no use for it; leave it out, or set "
        r"parallel.architecture=gorila \(or gorila_global\)",
    ),
    Case(
        "a queue where nothing waits, in training",
        "train CartPole-v1 --recipe a3c --set parallel.queue=1",
        r"redline: parallel.queue=1: architecture a3c has no use for it; leave it out, or set .*",
    ),
    Case(
        "a replay ratio beside the recipe's own",
        "train CartPole-v1 --recipe dqn --architecture apex --set parallel.replay_ratio=4",
        r"redline: parallel.replay_ratio=4.0: dqn learns once every algorithm.update_every agent steps; set that, .*",
    ),
    Case(
        "company waited for in lock-step",
        "train CartPole-v1 --recipe seed --set parallel.queue=0 --set parallel.max_wait=0.1",
        r"redline: parallel.max_wait=0.1: with parallel.queue=0 all take turns; leave it out, or set .*",
    ),
    Case(
        "more copies than environments",
        "train CartPole-v1 --recipe impala --num-envs 4 --set parallel.copies=9",
        r"redline: parallel.copies=9 is more than the 4 environments: raise sampler.num_envs, or use 4",
    ),
    Case(
        "lock-step at a server, two unrolls a batch",
        "train CartPole-v1 --recipe seed --num-envs 10 --set parallel.copies=5 "
        "--set parallel.queue=0 --set parallel.batch=2",
        r"redline: parallel.batch=2: in lock-step a server waits for all 5 workers, .*; leave it 0, or set .*",
    ),
    Case(
        "PPO with lag",
        "train CartPole-v1 --architecture impala --set parallel.copies=4 --set parallel.queue=1",
        r"redline: ppo is on-policy and needs lag <= 1; architecture impala with 4 copies allows 2: .*",
    ),
    Case(
        "PPO from replay",
        "train CartPole-v1 --architecture apex",
        r"redline: ppo cannot run on architecture apex: on-policy, needs lag <= 1, .*; use dqn or apex",
    ),
    Case(
        "DQN without its replay",
        "train CartPole-v1 --recipe dqn --architecture impala",
        r"redline: dqn cannot run on architecture impala: it learns from replay, .* use architecture apex",
    ),
    Case(
        "unknown architecture to show",
        "show imapla",
        r"redline: there is no architecture or recipe 'imapla': did you mean 'impala'\? .*",
    ),
    Case(
        "a queue where nothing waits",
        "show a3c --queue 1",
        r"redline: --queue: in architecture a3c no unrolls wait",
    ),
    Case(
        "a negative queue",
        "show impala --queue -1",
        r"redline: --queue: expected a whole number of 0 or more, got '-1'",
    ),
    Case(
        "copies of one loop",
        "show ppo --copies 2",
        r"redline: --copies: architecture synchronous has one loop",
    ),
    # ---- configuration files
    Case(
        "configuration that is not there",
        "train --config confg.yaml",
        r"redline: no configuration file 'confg.yaml': did you mean 'config.yaml'\?",
        arrange=write_file("config.yaml", ""),
    ),
    Case(
        "configuration that is a folder",
        "train --config .",
        r"redline: cannot read configuration file '.': .*",
    ),
    Case(
        "empty configuration",
        "train --config a.yaml",
        r"redline: .*expected keys and values.*",
        arrange=write_file("a.yaml", ""),
    ),
    Case(
        "configuration that is not YAML",
        "train --config a.yaml",
        r"redline: configuration file 'a.yaml' is not YAML: line 1, .*",
        arrange=write_file("a.yaml", "run: [1"),
    ),
    Case(
        "configuration that would run code",
        "train --config a.yaml",
        r"redline: configuration file 'a.yaml' is not YAML: .*could not determine a constructor.*",
        arrange=write_file("a.yaml", "recipe: !!python/object/apply:os.getcwd []"),
    ),
    Case(
        "unknown kind of algorithm",
        "train --config a.yaml",
        r"redline: algorithm.kind: unknown kind 'pop'; did you mean 'ppo'\? \(in 'a.yaml'\)",
        arrange=write_file("a.yaml", "recipe: x\nalgorithm: {kind: pop}"),
    ),
]
