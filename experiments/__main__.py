"""Lists the commands."""

COMMANDS = {
    "train": "train a network, score it on the test images and write a report",
    "evaluate": "score a run on its test images or on your own images with masks",
    "predict": "write masks of images",
    "ensemble": "score several runs as one network",
    "report": "write the report of a run again, or compare several runs",
    "export": "write a run's network to one file that needs no model code",
    "inspect_data": "show what the COVID-19 Radiography Database holds",
}

if __name__ == "__main__":
    print("usage: python -m experiments.COMMAND [options]\n")
    for name, description in COMMANDS.items():
        print(f"  {name:<13} {description}")
    print(
        "\nStart with:  python -m experiments.train"
        "\nOptions:     python -m experiments.COMMAND --help"
    )
