from dfdetect.training.learner import step_seed


def test_step_seed_is_shared_by_no_two_steps_of_neighbouring_runs():
    seeds = {step_seed(seed, step) for seed in range(3) for step in range(100)}
    assert len(seeds) == 300
    assert step_seed(0, 1) == step_seed(0, 1)
