"""What has ended long ago goes when somebody says so: batches, slicings, histories, repairs, and files of nothing."""
