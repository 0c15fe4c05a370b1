import re

from modeling_mtld.benchmark import main


def test_prints_the_ratio_of_network_and_trunk(capsys):
    main(["--backbone", "test_resnet.r160_in1k", "--image_size", "64", "--runs", "3", "--threads", "1"])
    ratio = re.search(r"model over trunk: (\d+\.\d+)", capsys.readouterr().out)
    assert float(ratio[1]) > 1
