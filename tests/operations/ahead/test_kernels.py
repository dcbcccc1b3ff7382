import os

from melody_jax.operations.ahead import kernels

SCHEDULE = """= control target key start
LH: loop header
= control target key end

     0   :  { %6 = vsyncpa [#allocation3], 0 } /* Start region 0 */
   0x1   :  { %8 = vsyncpa [#allocation3 + $0x1], 0 }
   0x2 LB: > { %s666_s10 = sadd.s32 4294967295, %s625_s9  ;;  %s374_s11 = sadd.s32 4294967294, %s625_s9 }
   0x3   : > { %p37_p3 = scmp.ne.s32.totalorder %s617_s7, %s613_s6 }
   0x4 LB: >> { %x = vld [vmem:[%s1] sm:$0xff] }
   0x5   : > {}
   0x6   :  { %9 = vsyncpa [#allocation4], 1 }
"""


def test_a_step_of_the_grid_runs_as_often_as_the_name_says(tmp_path):
    (tmp_path / "1795476477117375812-attention_forward_128_steps.1-01-final_bundles.txt").write_text(SCHEDULE)
    (tmp_path / "1795476477117375812-attention_forward_128_steps.1-00-schedule-analysis_final_bundles.txt").write_text(
        "-"
    )
    (tmp_path / "1795476477117375812-fusion.7-01-final_bundles.txt").write_text(SCHEDULE)
    (tmp_path / "1795476477117375812-sru_forward_6x10_steps-01-final_bundles.txt").write_text(SCHEDULE)
    shorter = SCHEDULE.replace("   0x5   : > {}\n", "")
    (tmp_path / "1795476477117375812-sru_forward_6x10_steps.7-01-final_bundles.txt").write_text(shorter)
    found = {"attention_forward_128_steps": 3 + 4 * 128, "sru_forward_6x10_steps": 3 + 3 * 6 + 6 * 10}
    assert kernels.cycles(tmp_path) == found


def test_the_compiler_is_asked_for_schedules_only_inside(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--mine=1")
    with kernels.schedules() as folder:
        assert folder.is_dir()
        assert os.environ["LIBTPU_INIT_ARGS"].startswith(f"--mine=1 --xla_jf_dump_to={folder} ")
    assert not folder.exists() and os.environ["LIBTPU_INIT_ARGS"] == "--mine=1"
