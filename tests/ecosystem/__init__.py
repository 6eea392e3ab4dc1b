"""Together with what people use: SDKs, mocks. Needs the extra `integrations`; without it these tests are skipped."""
