"""Since when a cluster's queue is followed without a gap, and when its last list was read."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inventory", "0005_constraints")]
    operations = [
        migrations.AddField(
            model_name="cluster",
            name="followed_since",
            field=models.DateTimeField(
                null=True,
                blank=True,
                help_text="since when no job can have come and gone unseen",
            ),
        ),
        migrations.AddField(
            model_name="cluster",
            name="listed_at",
            field=models.DateTimeField(
                null=True,
                blank=True,
                help_text="when a list was last read, whole or not",
            ),
        ),
    ]
