"""`python -m keras_adamfamily` is the command `adamfamily`."""

from keras_adamfamily.cli import main

if __name__ == "__main__":
    main()
