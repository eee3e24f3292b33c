"""Networks: pure torch with timm backbones. Importing this package loads neither."""
